//! `telltale token`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failure, load, print, tell};
use crate::access::{Access, Issuer};
use crate::clock::Clock;
use crate::config::{AuthConfig, AuthMode};

/// What `telltale token --help` ends with.
const THE_WAY: &str = "\
A hub that asks for tokens, from nothing:
  openssl rand -hex 32 > secret
  printf '[auth]\\nmode = \"jwt\"\\nsecret_file = \"secret\"\\n' > telltale.toml
  telltale serve
and tokens for it, to be shown as `Authorization: Bearer …`, as `?token=…`, or with `connect`:
  telltale token --user ana                                  reads everything
  telltale token --user ana --rooms 'project:*'              and enters the rooms of projects
  telltale token --user ci --publish 'pr.*=project:42'       publishes pull requests to one of them
  telltale token --user screen --read 'system.*'             reads these series and no others
  telltale token --user wall --layouts-read 'team-*'         sees the boards of teams
  telltale token --user ops --admin --expires 15m            looks after plugins and other users

Only the token is written to standard output. These tokens are for development: those of real
users come from whoever knows who they are, signed with the same secret or with a key whose public
half is auth.public_key_file or in auth.jwks_file. docs/security.md has all claims.";

/// Issue a token for development, signed with the configuration's secret or with a key file.
///
/// Every glob may be given several times. `*` matches any text, also dots and colons.
#[derive(Debug, Args)]
#[command(after_help = THE_WAY)]
pub(super) struct Token {
    /// Whose token it is
    #[arg(long, value_name = "USER")]
    user: String,
    /// Rooms that may be entered, as a glob [default: what auth.default_rooms says]
    #[arg(long, value_name = "GLOB")]
    rooms: Vec<String>,
    /// Event types that may be published, as a glob; with `=ROOMS` only to these [default: none]
    #[arg(long, value_name = "TYPES[=ROOMS]")]
    publish: Vec<String>,
    /// Series, documents and findings that may be read, as a glob [default: all]
    #[arg(long, value_name = "GLOB")]
    read: Vec<String>,
    /// Boards that may be read, as a glob [default: the user's own]
    #[arg(long, value_name = "GLOB")]
    layouts_read: Vec<String>,
    /// Boards that may be read and written, as a glob [default: the user's own]
    #[arg(long, value_name = "GLOB")]
    layouts_write: Vec<String>,
    /// May look after plugins, their logs, and other users' connections
    #[arg(long)]
    admin: bool,
    /// For how long it is good, such as 15m or 1h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// A private key of RSA, EC P-256 or Ed25519 in PEM, or a secret [default: the configuration's secret]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The key's name in the hub's JWKS file
    #[arg(long, value_name = "KID")]
    kid: Option<String>,
    /// The configuration file [default: telltale.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
    config: Option<PathBuf>,
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = load(self.config.as_ref())?;
        config.check().map_err(Failure::usage)?;
        let issuer = self.issuer(&config.auth)?.named(self.kid.clone());
        let clock = Clock::system();
        let claims = self.claims(&config.auth, clock.now_ms() / 1000);
        let token = issuer.sign(&claims).map_err(Failure::new)?;
        if config.auth.mode == AuthMode::Jwt {
            // Better said here than found out by who is refused.
            let access = Access::new(&config.auth, clock).map_err(Failure::usage)?;
            if let Err(refused) = access.verify(&token) {
                let why = refused.why;
                tell(&format!("telltale: a hub with this configuration refuses it: {why}"));
            }
        }
        print(&token);
        Ok(())
    }

    fn issuer(&self, auth: &AuthConfig) -> Result<Issuer, Failure> {
        let of_file = |key: &str, path: &PathBuf| {
            let words = |words| Failure::usage(format!("{key} {}: {words}", path.display()));
            Issuer::of_file(path).map_err(words)
        };
        match (&self.key_file, &auth.secret, &auth.secret_file) {
            (Some(path), ..) => of_file("--key-file", path),
            (None, Some(secret), _) => {
                Issuer::of_secret(secret.expose().as_bytes()).map_err(Failure::usage)
            }
            (None, None, Some(path)) => of_file("auth.secret_file =", path),
            (None, None, None) => Err(Failure::usage(
                "there is no secret to sign with: set auth.mode = \"jwt\" and auth.secret_file in \
                 the configuration, or name a private key with --key-file (see `telltale token \
                 --help`)",
            )),
        }
    }

    fn claims(&self, auth: &AuthConfig, now: u64) -> Value {
        let mut claims = Map::new();
        let user = auth.user_claim.first().map_or("sub", String::as_str);
        claims.insert(user.to_owned(), json!(self.user));
        claims.insert("iat".to_owned(), json!(now));
        claims.insert("exp".to_owned(), json!(now.saturating_add(self.expires.as_secs())));
        for (claim, configured) in [("iss", &auth.issuer), ("aud", &auth.audience)] {
            if let Some(first) = configured.first() {
                claims.insert(claim.to_owned(), json!(first));
            }
        }
        for (claim, globs) in [("rooms", &self.rooms), ("read", &self.read)] {
            if !globs.is_empty() {
                claims.insert(claim.to_owned(), json!(globs));
            }
        }
        if !self.publish.is_empty() {
            let rule = |text: &String| match text.split_once('=') {
                Some((types, rooms)) => json!({"types": [types], "rooms": [rooms]}),
                None => json!(text),
            };
            claims.insert("publish".to_owned(), self.publish.iter().map(rule).collect());
        }
        if !(self.layouts_read.is_empty() && self.layouts_write.is_empty()) {
            let layouts = json!({"read": self.layouts_read, "write": self.layouts_write});
            claims.insert("layouts".to_owned(), layouts);
        }
        if self.admin {
            claims.insert("admin".to_owned(), json!(true));
        }
        Value::Object(claims)
    }
}
