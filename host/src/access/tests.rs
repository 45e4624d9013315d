//! Tokens of every kind, and what becomes of them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::model::{Board, Room};

const RSA: &str = include_str!("tests/rsa.pem");
const RSA_PUBLIC: &str = include_str!("tests/rsa.pub.pem");
const RSA_OTHER: &str = include_str!("tests/rsa-other.pem");
const RSA_SHORT: &str = include_str!("tests/rsa-short.pub.pem");
const EC: &str = include_str!("tests/ec.pem");
const EC_PUBLIC: &str = include_str!("tests/ec.pub.pem");
const P384_PUBLIC: &str = include_str!("tests/p384.pub.pem");
const ED: &str = include_str!("tests/ed.pem");
const ED_PUBLIC: &str = include_str!("tests/ed.pub.pem");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210";

/// The time of all tests, in seconds.
pub(crate) const NOW: u64 = 1_770_724_800;

/// A hub's access with keys in a folder of its own.
struct Bench {
    folder: TempDir,
    now_ns: Arc<AtomicU64>,
    access: Arc<Access>,
}

fn config(toml: &str) -> AuthConfig {
    toml::from_str(&format!("mode = \"jwt\"\n{toml}")).unwrap()
}

impl Bench {
    fn new(config: &AuthConfig) -> Self {
        Self::within(tempfile::tempdir().unwrap(), config)
    }

    fn within(folder: TempDir, config: &AuthConfig) -> Self {
        let now_ns = Arc::new(AtomicU64::new(NOW * 1_000_000_000));
        let access = Access::new(config, Clock::set_by(now_ns.clone())).unwrap();
        Self { folder, now_ns, access: access.with_admin("the admin token") }
    }

    /// With one file, as `key` of the configuration.
    fn with_file(key: &str, content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, content).unwrap();
        Self::within(folder, &config(&format!("{key} = {path:?}")))
    }

    fn secret() -> Self {
        Self::new(&config(&format!("secret = {SECRET:?}")))
    }

    fn at(&self, second: f64) -> &Self {
        self.now_ns.store((second * 1e9) as u64, Ordering::Relaxed);
        self
    }

    fn why(&self, token: &str) -> &'static str {
        self.access.verify(token).unwrap_err().why
    }
}

/// Who may come in to a hub with the tests' secret and this in its `[auth]`, and
/// the clock of it in nanoseconds.
pub(crate) fn access(toml: &str) -> (Arc<Access>, Clock, Arc<AtomicU64>) {
    let bench = Bench::new(&config(&format!("secret = {SECRET:?}\n{toml}")));
    (bench.access, Clock::set_by(bench.now_ns.clone()), bench.now_ns)
}

fn claims() -> Value {
    json!({"sub": "ana", "exp": NOW + 60})
}

/// The claims of ana, and these.
fn with(more: Value) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

pub(crate) fn signed(claims: &Value) -> String {
    issue(Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn issue(header: Header, claims: &Value, key: &EncodingKey) -> String {
    encode(&header, claims, key).unwrap()
}

fn named(algorithm: Algorithm, kid: &str) -> Header {
    Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) }
}

fn rsa(pem: &str) -> EncodingKey {
    EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()
}

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(EC.as_bytes()).unwrap()
}

fn ed() -> EncodingKey {
    EncodingKey::from_ed_pem(ED.as_bytes()).unwrap()
}

/// The public half as an entry of a JWKS file.
fn jwk(public: &DecodingKey, algorithm: Algorithm, kid: Option<&str>) -> Value {
    let mut jwk = Jwk::from_decoding_key(public, Some(algorithm)).unwrap();
    jwk.common.key_id = kid.map(str::to_owned);
    json!(jwk)
}

#[test]
fn each_algorithm_is_checked_with_its_key() {
    let hs = EncodingKey::from_secret(SECRET.as_bytes());
    for (file, content, algorithm, key) in [
        ("secret_file", format!("{SECRET}\n"), Algorithm::HS256, hs),
        ("public_key_file", RSA_PUBLIC.to_owned(), Algorithm::RS256, rsa(RSA)),
        ("public_key_file", EC_PUBLIC.to_owned(), Algorithm::ES256, ec()),
        ("public_key_file", ED_PUBLIC.to_owned(), Algorithm::EdDSA, ed()),
    ] {
        let bench = Bench::with_file(file, &content);
        let token = issue(Header::new(algorithm), &claims(), &key);
        let identity = bench.access.verify(&token).unwrap();
        assert_eq!((&*identity.user, identity.is_authenticated), ("ana", true), "{algorithm:?}");
        // Another signature of the same length, and none.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
        assert!(bench.access.verify(&forged).is_err(), "{algorithm:?}");
        assert!(bench.access.verify(&format!("{signed}.")).is_err(), "{algorithm:?}");
        assert!(bench.access.verify(signed).is_err(), "{algorithm:?}");
    }
}

#[test]
fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let bench = Bench::with_file("public_key_file", RSA_PUBLIC);
    // The public key, which is no secret, taken for the secret of HS256.
    for secret in [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim().as_bytes()] {
        let key = EncodingKey::from_secret(secret);
        let token = issue(Header::new(Algorithm::HS256), &claims(), &key);
        assert_eq!(bench.why(&token), "no key of its algorithm and its name (kid) is there");
    }
    // The same key with another hash, and with another padding.
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        assert!(bench.access.verify(&issue(Header::new(algorithm), &claims(), &rsa(RSA))).is_err());
    }
    // {"alg":"none"} and {"alg":"None"}
    for head in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0"] {
        let token = signed(&claims());
        let body = token.split('.').nth(1).unwrap();
        for signature in ["", "AAAA"] {
            assert!(bench.access.verify(&format!("{head}.{body}.{signature}")).is_err());
        }
    }
    // A token that brings its own key.
    let own = Jwk::from_encoding_key(&rsa(RSA_OTHER), Algorithm::RS256).unwrap();
    let header = Header { jwk: Some(own), ..Header::new(Algorithm::RS256) };
    let token = issue(header, &claims(), &rsa(RSA_OTHER));
    assert_eq!(bench.why(&token), "its signature is not that of the key");
    let other = issue(Header::new(Algorithm::RS256), &claims(), &rsa(RSA_OTHER));
    assert_eq!(bench.why(&other), "its signature is not that of the key");
}

#[test]
fn what_is_no_token_is_refused() {
    let bench = Bench::secret();
    let long = signed(&with(json!({"more": "x".repeat(TOKEN_BYTES_MAX)})));
    assert_eq!(bench.why(&long), "it is longer than 8 KiB");
    for text in ["", ".", "..", "...", "a.b.c", "\u{1F512}.\u{1F512}.\u{1F512}", "e30.e30.e30"] {
        assert!(bench.access.verify(text).is_err(), "{text}");
    }
    let crit = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let token = issue(crit, &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(bench.why(&token), "it asks for what the hub does not know (crit)");
}

#[test]
fn a_token_is_good_from_its_beginning_to_its_end_and_a_little_longer() {
    let bench = Bench::secret();
    let now = NOW as f64;
    let token = signed(&json!({"sub": "ana", "exp": NOW + 60, "nbf": NOW}));
    for (second, outcome) in [
        (now - 30.001, Err("it is not valid yet (nbf)")),
        (now - 30.0, Ok(())),
        (now, Ok(())),
        (now + 89.999, Ok(())),
        (now + 90.0, Err("it has expired (exp)")),
    ] {
        // Anew each time: a token that was found good is remembered.
        bench.access.tokens.as_ref().unwrap().forget();
        let found = bench.at(second).access.verify(&token).map(|_| ()).map_err(|no| no.why);
        assert_eq!(found, outcome, "at {second}");
    }
    let identity = bench.at(now).access.verify(&token).unwrap();
    assert_eq!(identity.expires_ms, Some((NOW + 90) * 1000));
    // One that is remembered expires too.
    assert_eq!(bench.at(now + 90.0).why(&token), "it has expired (exp)");
}

#[test]
fn an_expiry_is_a_number_and_must_be_there() {
    let bench = Bench::secret();
    assert_eq!(bench.why(&signed(&json!({"sub": "ana"}))), "it has no expiry (exp)");
    assert!(bench.access.verify(&signed(&json!({"sub": "ana", "exp": "tomorrow"}))).is_err());
    assert!(bench.access.verify(&signed(&json!({"sub": "ana", "exp": -1}))).is_err());
    let fraction = signed(&json!({"sub": "ana", "exp": NOW as f64 + 0.5}));
    assert_eq!(bench.access.verify(&fraction).unwrap().expires_ms, Some(NOW * 1000 + 30_500));
    // As late as can be told.
    let never = bench.access.verify(&signed(&json!({"sub": "ana", "exp": 1e300}))).unwrap();
    let latest = never.expires_ms.unwrap();
    assert!(crate::clock::rfc3339(latest * 1_000_000).starts_with("2554-"), "{latest}");
}

#[test]
fn issuer_and_audience_are_those_of_the_configuration() {
    let text = format!("secret = {SECRET:?}\nissuer = [\"a\", \"b\"]\naudience = \"hub\"");
    let bench = Bench::new(&config(&text));
    for (claims, is_good) in [
        (json!({"iss": "a", "aud": "hub"}), true),
        (json!({"iss": "b", "aud": ["other", "hub"]}), true),
        (json!({"iss": "c", "aud": "hub"}), false),
        (json!({"iss": "a", "aud": "other"}), false),
        (json!({"iss": "a", "aud": []}), false),
        (json!({"iss": "a"}), false),
        (json!({"aud": "hub"}), false),
        (json!({}), false),
    ] {
        let found = bench.access.verify(&signed(&with(claims.clone())));
        assert_eq!(found.is_ok(), is_good, "{claims}");
    }
    // A hub that knows no audience is none of any.
    let bench = Bench::secret();
    let why = bench.why(&signed(&with(json!({"aud": "hub"}))));
    assert_eq!(why, "its audience (aud) is not in auth.audience");
    assert!(bench.access.verify(&signed(&with(json!({"iss": "anybody"})))).is_ok());
}

#[test]
fn the_first_claim_that_is_there_names_the_user() {
    let bench = Bench::secret();
    for (claims, user) in [
        (json!({"sub": "ana", "user_id": "bob"}), Some("ana")),
        (json!({"user_id": "bob", "permissions": ["read"]}), Some("bob")),
        (json!({"user_id": 42}), Some("42")),
        (json!({"sub": "ana@example.org"}), Some("ana@example.org")),
        (json!({"sub": "x".repeat(128)}), Some(&*"x".repeat(128))),
        (json!({}), None),
        (json!({"sub": ""}), None),
        (json!({"sub": null, "user_id": "bob"}), None),
        (json!({"sub": 4.2}), None),
        (json!({"sub": ["ana"]}), None),
        (json!({"sub": "a b"}), None),
        (json!({"sub": "a\nb"}), None),
        (json!({"sub": "x".repeat(129)}), None),
        (json!({"sub": ANONYMOUS}), None),
        (json!({"sub": "plugin:system"}), None),
    ] {
        let mut claims = claims;
        claims["exp"] = json!(NOW + 60);
        let found = bench.access.verify(&signed(&claims)).ok();
        assert_eq!(found.as_ref().map(|identity| &*identity.user), user, "{claims}");
    }
    let text = format!("secret = {SECRET:?}\nuser_claim = [\"email\"]");
    let bench = Bench::new(&config(&text));
    assert_eq!(&*bench.access.verify(&signed(&with(json!({"email": "e"})))).unwrap().user, "e");
    assert_eq!(bench.why(&signed(&claims())), "it names no user (auth.user_claim)");
}

#[test]
fn claims_say_what_is_allowed() {
    let bench = Bench::secret();
    let verify = |more: Value| bench.access.verify(&signed(&with(more)));
    let room = |name: &str| Room::new(name).unwrap();

    let plain = verify(json!({})).unwrap();
    assert!(!plain.admin && plain.reads_all());
    assert!(plain.may_enter(&room("global")) && plain.may_enter(&room("user:ana")));
    assert!(!plain.may_enter(&room("user:bob")) && !plain.may_enter(&room("project:42")));
    assert!(!plain.may_publish("pr.created", &room("global")));

    let member = verify(json!({"rooms": ["project:4*", "user:*"], "publish": ["pr.*"]})).unwrap();
    assert!(member.may_enter(&room("project:42")) && !member.may_enter(&room("project:7")));
    assert!(!member.may_enter(&room("user:bob")), "another user's room is nobody's else");
    assert!(member.may_publish("pr.created", &room("project:42")));
    assert!(member.may_publish("pr.created", &room("user:ana")));
    assert!(!member.may_publish("pr.created", &room("user:bob")));
    assert!(!member.may_publish("pr.created", &room("project:7")));
    assert!(!member.may_publish("issue.created", &room("project:42")));

    let rules =
        json!({"publish": ["ai.*", {"types": ["ci.done"], "rooms": ["project:*", "user:*"]}]});
    let ci = verify(rules).unwrap();
    assert!(
        ci.may_publish("ci.done", &room("project:7"))
            && ci.may_publish("ci.done", &room("user:bob"))
    );
    assert!(!ci.may_publish("ci.done", &room("global")), "it names rooms, and global is none");
    assert!(
        ci.may_publish("ai.hint", &room("global"))
            && !ci.may_publish("ai.hint", &room("project:7"))
    );

    let reader = verify(json!({"read": ["system.*"]})).unwrap();
    assert!(reader.may_read("system.cpu") && !reader.may_read("skill.rate") && !reader.reads_all());
    let blind = verify(json!({"read": []})).unwrap();
    assert!(!blind.may_read("system.cpu") && !blind.reads_all());
    let admin = verify(json!({"read": ["system.*"], "admin": true})).unwrap();
    assert!(admin.admin && admin.reads_all() && !admin.may_read("skill.rate"));
}

#[test]
fn layouts_say_which_boards_are_read_and_written() {
    let bench = Bench::secret();
    let verify = |more: Value| bench.access.verify(&signed(&with(more))).unwrap();
    let board = |name: &str| Board::new(name).unwrap();
    let home = |identity: &Identity| identity.home_board().map(|board| board.to_string());

    let plain = verify(json!({}));
    assert!(plain.may_read_board(&board("ana")) && plain.may_write_board(&board("ana")));
    assert!(!plain.may_read_board(&board("bob")) && !plain.may_write_board(&board("shared")));
    assert_eq!(home(&plain).as_deref(), Some("ana"));

    let claim = json!({"layouts": {"read": ["team-*"], "write": ["team-a"]}});
    let member = verify(claim);
    assert!(member.may_read_board(&board("team-b")) && !member.may_write_board(&board("team-b")));
    assert!(member.may_read_board(&board("team-a")) && member.may_write_board(&board("team-a")));
    assert!(!member.may_read_board(&board("ana")), "its own is not named");
    assert_eq!(home(&member), None, "there are several");
    let room = |name: &str| Room::new(name).unwrap();
    assert!(member.may_enter(&room("board:team-b")) && !member.may_enter(&room("board:ana")));

    let only = verify(json!({"layouts": {"read": ["wall"]}}));
    assert_eq!(home(&only).as_deref(), Some("wall"));
    assert!(!only.may_write_boards() && member.may_write_boards() && plain.may_write_boards());
    let own = verify(json!({"layouts": {"read": ["*"], "write": ["ana"]}}));
    assert_eq!(home(&own).as_deref(), Some("ana"));
    let none = verify(json!({"layouts": {}}));
    assert!(home(&none).is_none() && !none.may_read_board(&board("ana")));

    // Neither rooms nor what may be published opens a board.
    let publisher = verify(json!({"rooms": ["*"], "publish": [{"types": ["*"], "rooms": ["*"]}]}));
    assert!(!publisher.may_enter(&room("board:bob")) && publisher.may_enter(&room("board:ana")));
    for identity in [&publisher, &Identity::admin(), &Identity::open()] {
        assert!(!identity.may_publish("layouts.changed", &room("board:ana")));
    }
    assert!(!plain.is_like(&member));
    // Who looks after the hub sees what all who say nothing of themselves see.
    assert_eq!(home(&Identity::admin()).as_deref(), Some("shared"));
}

#[test]
fn who_says_who_it_is_is_believed_only_where_that_is_allowed() {
    let open = Access::new(&AuthConfig::default(), Clock::system()).unwrap();
    assert!(open.believe("ana").is_none() && open.believe_nobody().is_none());
    let open = open.believing(true);
    let ana = open.believe("ana").unwrap();
    assert!(&*ana.user == "ana" && !ana.is_authenticated && !ana.admin);
    // All of them see the same board unless they name another.
    assert_eq!(ana.home_board(), Board::new("shared").ok());
    assert_eq!(open.believe_nobody().unwrap().home_board(), Board::new("shared").ok());
    assert!(ana.may_write_board(&Board::new("team").unwrap()));
    for kept in ["admin", "anonymous", "plugin:p", "", "a b", "x:"] {
        assert!(open.believe(kept).is_none(), "{kept:?}");
    }
    assert!(open.believe(&"x".repeat(129)).is_none());

    // Where others show tokens, it sees to its own board and does nothing else.
    let config = config(&format!("secret = {SECRET:?}"));
    let guarded = Access::new(&config, Clock::system()).unwrap();
    assert!(guarded.believe("ana").is_none());
    let ana = guarded.believing(true).believe("ana").unwrap();
    assert_eq!(ana.home_board(), Board::new("ana").ok());
    assert!(ana.may_write_board(&Board::new("ana").unwrap()));
    assert!(!ana.may_read_board(&Board::new("bob").unwrap()));
    assert!(ana.publish.is_empty() && !ana.may_enter(&Room::new("project:1").unwrap()));
}

#[test]
fn claims_that_are_no_claims_are_refused() {
    let bench = Bench::secret();
    let many: Vec<String> = (0..65).map(|at| format!("project:{at}")).collect();
    let long = "x".repeat(257);
    let rules: Vec<Value> = (0..33).map(|_| json!({"types": ["a"], "rooms": ["b"]})).collect();
    for claims in [
        json!({"rooms": "project:*"}),
        json!({"rooms": [1]}),
        json!({"rooms": ["a["]}),
        json!({"rooms": many}),
        json!({"rooms": [long]}),
        json!({"publish": many}),
        json!({"publish": [[]]}),
        json!({"publish": rules}),
        json!({"publish": [{"rooms": ["a"]}]}),
        json!({"publish": [{"types": ["a"], "room": ["b"]}]}),
        json!({"publish": vec![json!({"types": []}); 65]}),
        json!({"read": many}),
        json!({"read": "*"}),
        json!({"layouts": ["a"]}),
        json!({"layouts": {"read": "a"}}),
        json!({"layouts": {"reed": ["a"]}}),
        json!({"layouts": {"write": many}}),
        json!({"layouts": {"write": ["a["]}}),
        json!({"admin": "true"}),
        json!({"admin": 1}),
    ] {
        assert!(bench.access.verify(&signed(&with(claims.clone()))).is_err(), "{claims}");
    }
}

#[test]
fn tokens_without_rooms_have_those_of_the_configuration() {
    let text = format!("secret = {SECRET:?}\ndefault_rooms = [\"project:*\"]");
    let bench = Bench::new(&config(&text));
    let room = Room::new("project:42").unwrap();
    assert!(bench.access.verify(&signed(&claims())).unwrap().may_enter(&room));
    let none = signed(&with(json!({"rooms": []})));
    assert!(!bench.access.verify(&none).unwrap().may_enter(&room));
    let text = format!("secret = {SECRET:?}\ndefault_rooms = [\"a[\"]");
    let error = Access::new(&config(&text), Clock::system()).unwrap_err().to_string();
    assert!(error.starts_with("auth.default_rooms: "), "{error}");
}

#[test]
fn who_shows_no_token_is_somebody_only_where_that_is_allowed() {
    let open = Access::new(&AuthConfig::default(), Clock::system()).unwrap().with_admin("admin!");
    let anybody = open.admit(None, "native").unwrap();
    assert!(!anybody.is_authenticated && !anybody.admin && anybody.reads_all());
    assert!(open.admit(Some("nonsense"), "native").is_some(), "nobody has to say who they are");
    assert!(open.admit(Some("admin!"), "native").unwrap().admin);
    assert!(open.verify("nonsense").is_err());

    let text = format!("secret = {SECRET:?}\nanonymous = [\"skills\"]");
    let bench = Bench::new(&config(&text));
    let reader = bench.access.admit(None, "skills").unwrap();
    assert!(!reader.is_authenticated && reader.reads_all() && reader.publish.is_empty());
    assert!(!reader.may_enter(&Room::new("project:42").unwrap()));
    assert!(bench.access.admit(None, "native").is_none());
    assert!(bench.access.admit(Some("nonsense"), "skills").is_none(), "a bad token is not none");
    assert_eq!(&*bench.access.admit(Some(&signed(&claims())), "skills").unwrap().user, "ana");
}

#[test]
fn the_admin_token_of_the_run_allows_everything() {
    let bench = Bench::secret();
    let admin = bench.access.verify("the admin token").unwrap();
    assert!(admin.admin && admin.is_authenticated && admin.expires_ms.is_none());
    assert!(admin.may_publish("any.thing", &Room::new("user:bob").unwrap()));
    assert!(bench.access.verify("the admin tokem").is_err());
}

#[test]
fn a_token_names_its_key_among_several() {
    let ec_key = DecodingKey::from_ec_pem(EC_PUBLIC.as_bytes()).unwrap();
    let rsa_key = DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes()).unwrap();
    let ed_key = DecodingKey::from_ed_pem(ED_PUBLIC.as_bytes()).unwrap();
    let other = EncodingKey::from_rsa_pem(RSA_OTHER.as_bytes()).unwrap();
    let other_jwk = Jwk::from_encoding_key(&other, Algorithm::RS256).unwrap();
    let mut other_jwk = json!(other_jwk);
    other_jwk["kid"] = json!("r2");
    let mut encryption = jwk(&rsa_key, Algorithm::RS256, Some("r3"));
    encryption["use"] = json!("enc");
    let keys = json!({"keys": [
        jwk(&rsa_key, Algorithm::RS256, Some("r1")),
        other_jwk,
        encryption,
        jwk(&ec_key, Algorithm::ES256, Some("e1")),
        jwk(&ed_key, Algorithm::EdDSA, None),
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "short"},
        {"kty": "strange"},
    ]});
    let bench = Bench::with_file("jwks_file", &keys.to_string());
    for (header, key, is_good) in [
        (named(Algorithm::RS256, "r1"), rsa(RSA), true),
        (named(Algorithm::RS256, "r2"), rsa(RSA_OTHER), true),
        (named(Algorithm::RS256, "r2"), rsa(RSA), false),
        (named(Algorithm::RS256, "r3"), rsa(RSA), false),
        (named(Algorithm::RS256, "e1"), rsa(RSA), false),
        // Two keys fit.
        (Header::new(Algorithm::RS256), rsa(RSA), false),
        // Only one does.
        (Header::new(Algorithm::ES256), ec(), true),
        (named(Algorithm::ES256, "e2"), ec(), false),
        // It has no name, so that any will do.
        (Header::new(Algorithm::EdDSA), ed(), true),
        (named(Algorithm::EdDSA, "x"), ed(), true),
    ] {
        let token = issue(header.clone(), &claims(), &key);
        let found = bench.access.verify(&token);
        assert_eq!(found.is_ok(), is_good, "{header:?} {found:?}");
    }
}

#[test]
fn a_key_file_that_cannot_be_used_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("the-key");
    let short = json!({"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}).to_string();
    let many = json!({"keys": vec![json!({"kty": "oct"}); 65]}).to_string();
    for (key, content, words) in [
        ("secret_file", "short\n", "has 5 bytes, and HS256 needs at least 32"),
        ("secret_file", "", "openssl rand -hex 32"),
        ("public_key_file", "no key", "no PEM block `PUBLIC KEY`"),
        ("public_key_file", RSA, "this is a private key"),
        ("public_key_file", RSA_SHORT, "1024 bits"),
        ("public_key_file", P384_PUBLIC, "no key of EC P-256"),
        ("jwks_file", "[]", "no JWKS"),
        ("jwks_file", "{\"keys\":[]}", "no key of HS256, RS256, ES256 or EdDSA"),
        ("jwks_file", &short, "has 5 bytes, and HS256 needs at least 32"),
        ("jwks_file", &many, "65 keys, and 64 is the limit"),
    ] {
        fs::write(&path, content).unwrap();
        let error = Access::new(&config(&format!("{key} = {path:?}")), Clock::system());
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with(&format!("auth.{key} = ")), "{error}");
        assert!(error.contains("the-key") && error.contains(words), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let gone = Access::new(&config(&format!("secret_file = {path:?}")), Clock::system());
    assert!(gone.unwrap_err().to_string().contains("the-key"));
    let two =
        json!({"keys": [{"kty": "oct", "k": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"}]});
    fs::write(&path, two.to_string()).unwrap();
    let both = config(&format!("jwks_file = {path:?}\nsecret = {SECRET:?}"));
    let error = Access::new(&both, Clock::system()).unwrap_err().to_string();
    assert!(error.contains("two keys of HS256 with no key id"), "{error}");
}

/// Puts a file in the place of another as careful programs do.
fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn a_key_file_that_changes_is_read_again() {
    let bench = Bench::with_file("secret_file", SECRET);
    let path = bench.folder.path().join("key");
    let old = signed(&claims());
    let key = EncodingKey::from_secret(OTHER_SECRET.as_bytes());
    let new = issue(Header::new(Algorithm::HS256), &claims(), &key);
    assert!(bench.access.verify(&old).is_ok() && bench.access.verify(&new).is_err());

    replace(&path, OTHER_SECRET);
    assert!(bench.access.verify(&old).is_ok(), "nobody has looked yet");
    bench.access.look_at_files();
    assert!(bench.access.verify(&new).is_ok());
    assert!(bench.access.verify(&old).is_err(), "what was remembered goes with its key");

    // What can't be used changes nothing, however long it stays.
    for broken in ["short", ""] {
        replace(&path, broken);
        bench.access.look_at_files();
        bench.access.look_at_files();
        assert!(bench.access.verify(&new).is_ok());
    }
    fs::remove_file(&path).unwrap();
    bench.access.look_at_files();
    bench.access.look_at_files();
    assert!(bench.access.verify(&new).is_ok());

    // A link that is set anew, as Kubernetes does with its secrets.
    let real = bench.folder.path().join("real");
    fs::write(&real, SECRET).unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    bench.access.look_at_files();
    assert!(bench.access.verify(&old).is_ok() && bench.access.verify(&new).is_err());
    let other = bench.folder.path().join("other");
    fs::write(&other, OTHER_SECRET).unwrap();
    std::os::unix::fs::symlink(&other, path.with_extension("next")).unwrap();
    fs::rename(path.with_extension("next"), &path).unwrap();
    bench.access.look_at_files();
    assert!(bench.access.verify(&new).is_ok() && bench.access.verify(&old).is_err());
}

#[test]
fn no_more_tokens_are_remembered_than_there_is_room_for() {
    let keys = Keys::default();
    let identity = Identity::anonymous();
    for at in 0..5000_u32 {
        keys.remember(blake3::hash(&at.to_le_bytes()), &identity);
    }
    assert!(keys.recall(&blake3::hash(&4999_u32.to_le_bytes())).is_some());
    assert!(keys.recall(&blake3::hash(&0_u32.to_le_bytes())).is_none());
}
