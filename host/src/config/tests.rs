use super::*;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("telltale.toml");
    std::fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::load(Some(&path), environment)
        .and_then(|config| config.check().map(|()| config))
        .map_err(|error| error.to_string())
}

#[test]
fn without_a_word_the_defaults_hold() {
    assert_eq!(load("", &[]).unwrap(), Config::default());
    assert_eq!(Config::load(None, []).unwrap(), Config::default());
    assert_eq!(Config::default().plugins_folder(), Path::new("telltale-data/plugins"));
}

#[test]
fn the_environment_overrules_the_file() {
    let text = "tick = \"2s\"\n[retention]\nsize_mib = 64\nage = \"1d\"";
    let environment = [
        ("TELLTALE_TICK", "250ms"),
        ("TELLTALE_LISTEN", "127.0.0.1:1, [::1]:2"),
        ("TELLTALE_RETENTION_SIZE_MIB", "128"),
        ("TELLTALE_AUTH_ALLOW_OPEN", "true"),
        ("PATH", "/bin"),
    ];
    let config = load(text, &environment).unwrap();
    assert_eq!(config.tick, Duration::from_millis(250));
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.retention.size_mib, 128);
    assert_eq!(config.retention.age, Duration::from_secs(86_400));
    assert!(config.auth.allow_open);
}

#[test]
fn errors_name_the_line_and_the_key() {
    for (text, words) in [
        ("\ntock = \"1s\"", "line 2: unknown field `tock`"),
        ("tick = 5", "line 1: invalid type"),
        ("tick = \"soon\"", "\"soon\" is no duration"),
        ("listen = [\"here\"]", "line 1"),
        ("[auth]\nmode = \"magic\"", "line 2: unknown variant `magic`"),
        ("[auth]\nmagic = true", "line 2: unknown field `magic`"),
        ("tick = \"1ms\"", "tick = 1ms is not from 50 ms to 1 h"),
        ("listen = []", "listen names no address"),
        ("listen = [\"0.0.0.0:8765\"]", "auth.allow_open = true"),
        ("[retention]\nsize_mib = 1", "retention.size_mib = 1 is less than 16"),
        ("workers = 0", "workers = 0 is not from 1 to 1024"),
        ("workers = 1025", "workers = 1025 is not from 1 to 1024"),
        ("workers = -1", "line 1: invalid value"),
        ("[heartbeat]\ninterval = \"999ms\"", "heartbeat.interval = 999ms is not from 1 s to 1 h"),
        ("[heartbeat]\ninterval = \"1h 1s\"", "heartbeat.interval = 3601s is not from"),
        ("[layouts]\nheartbeat = \"999ms\"", "layouts.heartbeat = 999ms is not from 1 s to 1 h"),
        ("[drain]\nwindow = \"11min\"", "drain.window = 660s is not from 0 s to 10 min"),
        ("[limits]\noutbox_mib = 15", "limits.outbox_mib = 15 is not from 16 to 1048576"),
        ("[limits]\noutbox_mib = 1048577", "limits.outbox_mib = 1048577 is not from"),
        ("[limits]\nconnections = 0", "limits.connections = 0 lets nobody in"),
        ("[limits]\nhandshakes = 15", "limits.handshakes = 15 is not from 16 to 65536"),
        ("[limits]\nconnections_per_address = 0", "limits.connections_per_address = 0 is not"),
        ("[limits]\nconnections_per_user = 0", "limits.connections_per_user = 0 is not"),
        ("[limits]\nmessages_per_second = 0", "limits.messages_per_second = 0 is not from 1 to"),
        ("[limits]\nmessages_burst = 0", "limits.messages_burst = 0 is not from 1 to"),
        ("[limits]\npublishes_per_second = 0", "limits.publishes_per_second = 0 is not from 1"),
        ("[limits]\npublishes_burst = 99", "limits.publishes_burst = 99 is not from 100 to"),
        ("[cors]\norigins = [\"*\"]", "cors.origins: \"*\" is no origin such as"),
        ("[cors]\norigins = [\"https://*.example\"]", "has a wildcard, and there is none"),
        ("[cors]\norigins = [\"https://a.example/app\"]", "more than scheme, host and port"),
        ("[proxy]\ntrusted = [\"10.0.0.0/33\"]", "line 2: \"10.0.0.0/33\" is no address such as"),
        (
            "[tls]\ncertificate_file = \"c.pem\"",
            "tls.certificate_file = \"c.pem\" needs tls.key_file",
        ),
        ("[findings]\nopen = 0.0", "findings.open = 0.0 is not from 0.01 to 1"),
        ("[findings]\nopen = nan", "findings.open = NaN is not from"),
        ("[findings]\nagain = 0.5", "findings.again = 0.5 is not from 1 to 1000000"),
        ("[findings]\nfor = 0", "findings.for = 0 is not from 1 to"),
        ("[findings]\nclose_after = 0", "findings.close_after = 0 is not from 1"),
        ("[findings]\nquiet = \"31d\"", "or up to 30 days"),
        ("[findings]\nquiet = \"soon\"", "line 2: \"soon\" is no number of values and no time"),
        ("[findings]\nquiet = true", "line 2: expected a number of values, or a time such as"),
        ("[findings]\nhold = 3", "line 2: unknown field `hold`"),
        ("[[findings.rules]]\nwhen = 3", "line 2: unknown field `when`"),
        (
            "[[findings.rules]]\n[[findings.rules]]\nopen = 2.0",
            "findings.rules (number 2).open = 2.0 is not from 0.01 to 1",
        ),
        (
            "[[findings.rules]]\nseries = \"a[\"",
            "findings.rules (number 1).series: error parsing glob 'a['",
        ),
        ("[[findings.mute]]\ndaily = \"22-6\"", "line 2: \"22-6\" is no part of a day such as"),
        ("[[findings.mute]]\ndaily = \"06:00-06:00\"", "is no part of a day"),
        ("[[findings.mute]]\ndaily = \"22:00-24:00\"", "is no part of a day"),
        ("[[findings.mute]]\nfrom = \"today\"", "line 2: \"today\" is no time with a zone such as"),
        (
            "[[findings.mute]]\nfrom = 2026-02-10T12:00:00Z\nto = \"2026-02-10T12:00:00Z\"",
            "findings.mute (number 1): `to` is not after `from`",
        ),
        ("[[findings.mute]]\ndetector = [\"{\"]", "findings.mute (number 1).detector: error"),
        ("[tls]\nkey_file = \"k.pem\"", "tls.key_file = \"k.pem\" needs tls.certificate_file"),
    ] {
        let error = load(text, &[]).unwrap_err();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn a_value_at_its_limit_is_taken() {
    for text in [
        "workers = 1",
        "workers = 1024",
        "[heartbeat]\ninterval = \"1s\"",
        "[heartbeat]\ninterval = \"1h\"",
        "[drain]\nwindow = \"0s\"",
        "[drain]\nwindow = \"10min\"",
        "[limits]\noutbox_mib = 16",
        "[limits]\noutbox_mib = 1048576",
        "[tls]\ncertificate_file = \"c.pem\"\nkey_file = \"k.pem\"",
    ] {
        assert!(load(text, &[]).is_ok(), "{text}");
    }
}

#[test]
fn every_section_has_its_variables() {
    let environment = [
        ("TELLTALE_WORKERS", "3"),
        ("TELLTALE_HEARTBEAT_INTERVAL", "10s"),
        ("TELLTALE_DRAIN_WINDOW", "1m"),
        ("TELLTALE_LIMITS_OUTBOX_MIB", "64"),
        ("TELLTALE_LIMITS_MESSAGES_PER_SECOND", "7"),
        ("TELLTALE_PROXY_TRUSTED", "10.0.0.0/8, ::1"),
        ("TELLTALE_CORS_CREDENTIALS", "false"),
        ("TELLTALE_FINDINGS_OPEN", "0.75"),
        ("TELLTALE_FINDINGS_AGAIN", "4"),
        ("TELLTALE_FINDINGS_QUIET", "10m"),
        ("TELLTALE_FINDINGS_FOR", "2"),
        ("TELLTALE_TLS_CERTIFICATE_FILE", "/etc/hub/chain.pem"),
        ("TELLTALE_TLS_KEY_FILE", "/etc/hub/key.pem"),
    ];
    let config = load("", &environment).unwrap();
    assert_eq!(config.workers, Some(3));
    assert_eq!(config.heartbeat.interval, Duration::from_secs(10));
    assert_eq!(config.drain.window, Duration::from_secs(60));
    assert_eq!(config.limits.outbox_mib, 64);
    let findings = &config.findings;
    assert_eq!((findings.open, findings.again), (0.75, 4.0));
    let quiet = Span::Time(Duration::from_secs(600));
    assert_eq!((findings.quiet, findings.hold), (quiet, Span::Values(2)));
    assert_eq!(config.limits.messages_per_second, 7);
    let trusted: Vec<_> = config.proxy.trusted.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/8", "::1/128"]);
    assert!(!config.cors.credentials && Config::default().cors.credentials);
    let files = (Path::new("/etc/hub/chain.pem"), Path::new("/etc/hub/key.pem"));
    assert_eq!(config.tls.files(), Ok(Some(files)));
    assert_eq!(Config::default().tls.files(), Ok(None));
}

#[test]
fn errors_name_the_variable() {
    for (variable, value, words) in [
        ("TELLTALE_TOCK", "1s", "TELLTALE_TOCK: unknown field `tock`"),
        ("TELLTALE_TICK", "soon", "TELLTALE_TICK: \"soon\" is no duration"),
        ("TELLTALE_RETENTION_SIZE_MIB", "much", "TELLTALE_RETENTION_SIZE_MIB: invalid type"),
    ] {
        let error = load("", &[(variable, value)]).unwrap_err();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn other_machines_are_let_in_only_in_so_many_words() {
    let open = "listen = [\"0.0.0.0:8765\"]\n[auth]\nallow_open = true";
    assert!(load(open, &[]).is_ok());
    assert!(load("listen = [\"[::1]:8765\", \"127.1.2.3:1\"]", &[]).is_ok());
}

#[test]
fn tokens_need_a_key_and_a_key_needs_tokens() {
    let secret = "0123456789abcdef0123456789abcdef";
    for (text, words) in [
        ("mode = \"jwt\"", "auth.secret_file (make one with `openssl rand -hex 32`)"),
        ("secret_file = \"s\"", "auth.secret_file is there, and auth.mode is \"none\""),
        ("jwks_file = \"s\"", "set auth.mode = \"jwt\""),
        ("mode = \"jwt\"\nsecret = \"short\"", "auth.secret has 5 bytes"),
        (&format!("mode = \"jwt\"\nsecret_file = \"s\"\nsecret = {secret:?}"), "one is enough"),
        ("mode = \"jwt\"\njwks_file = \"k\"\nleeway = \"6min\"", "auth.leeway = 360s is not from"),
        ("mode = \"jwt\"\njwks_file = \"k\"\nuser_claim = []", "auth.user_claim names no claim"),
        ("mode = \"jwt\"\njwks_file = \"k\"\nanonymous = [\"smoke\"]", "native, skills, socketio"),
        ("issuer = 5", "line 2: expected a text, or a list of texts"),
    ] {
        let error = load(&format!("[auth]\n{text}"), &[]).unwrap_err();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    for text in [
        format!("secret = {secret:?}"),
        "secret_file = \"s\"\npublic_key_file = \"p\"\njwks_file = \"k\"".to_owned(),
        "jwks_file = \"k\"\nleeway = \"5min\"\nanonymous = [\"skills\"]".to_owned(),
    ] {
        // With tokens other machines may come.
        let text = format!("listen = [\"0.0.0.0:1\"]\n[auth]\nmode = \"jwt\"\n{text}");
        assert!(load(&text, &[]).is_ok(), "{text}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    let secret = "0123456789abcdef0123456789abcdef";
    let environment = [
        ("TELLTALE_AUTH_MODE", "jwt"),
        ("TELLTALE_AUTH_SECRET", secret),
        ("TELLTALE_AUTH_ISSUER", "a, b"),
        ("TELLTALE_AUTH_AUDIENCE", "hub"),
        ("TELLTALE_AUTH_USER_CLAIM", "email"),
        ("TELLTALE_AUTH_DEFAULT_ROOMS", "project:*,agent:*"),
        ("TELLTALE_AUTH_ANONYMOUS", "skills"),
        ("TELLTALE_AUTH_LEEWAY", "5s"),
    ];
    let config = load("", &environment).unwrap();
    assert_eq!(config.auth.secret.as_ref().unwrap().expose(), secret);
    assert_eq!(config.auth.issuer, ["a", "b"]);
    assert_eq!(
        (&*config.auth.audience, &*config.auth.user_claim),
        (&["hub".to_owned()][..], &["email".to_owned()][..])
    );
    assert_eq!(config.auth.default_rooms, ["project:*", "agent:*"]);
    assert_eq!(
        (&*config.auth.anonymous, config.auth.leeway),
        (&["skills".to_owned()][..], Duration::from_secs(5))
    );
    assert!(!format!("{config:?}").contains(secret));
    let error = load(&format!("[auth]\nsecret = [{secret:?}]"), &[]).unwrap_err();
    assert!(error.contains("line 2") && !error.contains(secret), "{error}");
}

#[test]
fn what_becomes_a_finding_may_differ_by_detector_and_series_and_time() {
    let text = r#"
        [findings]
        open = 0.6
        quiet = "10m"
        [[findings.rules]]
        detector = "novelty"
        series = ["system.*", "app.*"]
        labels = { core = "0" }
        for = 3
        [[findings.mute]]
        series = "backup.*"
        daily = "22:00-06:00"
        from = 2026-02-10T12:00:00+01:00
        reason = "the nightly backup"
    "#;
    let FindingsConfig { open, close, quiet, rules, mute, .. } = load(text, &[]).unwrap().findings;
    assert_eq!((open, close, quiet), (0.6, 0.4, Span::Time(Duration::from_secs(600))));
    let [rule] = &rules[..] else { panic!() };
    assert_eq!((&*rule.detector, rule.series.len()), (&["novelty".to_owned()][..], 2));
    assert_eq!((rule.hold, rule.open, &*rule.labels["core"]), (Some(Span::Values(3)), None, "0"));
    let [mute] = &mute[..] else { panic!() };
    assert_eq!((mute.from, mute.to), (Some(1_770_721_200_000_000_000), None));
    let daily = mute.daily.unwrap();
    let at = |hour: u64, minute: u64| daily.holds((hour * 60 + minute) * 60_000_000_000);
    assert!(!at(21, 59) && at(22, 0) && at(23, 59) && at(0, 0) && at(5, 59) && !at(6, 0));
    assert!(load(&"[[findings.mute]]\n".repeat(64), &[]).is_ok());
    let error = load(&"[[findings.mute]]\n".repeat(65), &[]).unwrap_err();
    assert!(error.contains("findings.mute has 65 tables, and 64 is the limit"), "{error}");
}

#[test]
fn a_time_is_as_many_values_as_are_due_in_it() {
    let second = 1_000_000_000;
    assert_eq!(Span::Values(7).values(second), 7);
    assert_eq!(Span::Time(Duration::from_secs(600)).values(second), 600);
    assert_eq!(Span::Time(Duration::from_secs(601)).values(300 * second), 3);
    assert_eq!(Span::Time(Duration::ZERO).values(second), 0);
    assert_eq!(Span::Time(Duration::from_secs(600)).values(0), u32::MAX);
}

#[test]
fn what_a_receiver_is_given_is_in_no_error() {
    let texts = [
        "[notify.pager]\nurl = \"https://x\"\nheaders = \"Bearer s3cret\"",
        "[ notify.pager ]\nurl = \"https://x\"\nheaders = \"Bearer s3cret\"",
        "[notify.pager]\nsecret = [\n  \"s3cret=\",\n  \"s3cret=\" \"\n]",
        "notify = { pager = { headers = \"Bearer s3cret\" } }",
    ];
    for text in texts {
        let words = load(text, &[]).unwrap_err().to_string();
        assert!(words.contains("line ") && !words.contains("s3cret"), "{words}");
    }
    let words = load("", &[("TELLTALE_NOTIFY_PAGER_HEADERS", "s3cret")]).unwrap_err().to_string();
    assert!(!words.contains("s3cret"), "{words}");
    let environment = [("TELLTALE_NOTIFY_PAGER_SCORE", "0.8")];
    let set = load("[notify.pager]\nurl = \"https://x\"", &environment).unwrap();
    assert!((set.notify["pager"].score - 0.8).abs() < 1e-9);
}
