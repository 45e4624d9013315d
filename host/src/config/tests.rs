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
        ("[auth]\nmode = \"magic\"", "line 2: unknown field `mode`"),
        ("tick = \"1ms\"", "tick = 1ms is not from 50 ms to 1 h"),
        ("listen = []", "listen names no address"),
        ("listen = [\"0.0.0.0:8765\"]", "auth.allow_open = true"),
        ("[retention]\nsize_mib = 1", "retention.size_mib = 1 is less than 16"),
        ("workers = 0", "workers = 0 is not from 1 to 1024"),
        ("workers = 1025", "workers = 1025 is not from 1 to 1024"),
        ("workers = -1", "line 1: invalid value"),
        ("[heartbeat]\ninterval = \"999ms\"", "heartbeat.interval = 999ms is not from 1 s to 1 h"),
        ("[heartbeat]\ninterval = \"1h 1s\"", "heartbeat.interval = 3601s is not from"),
        ("[drain]\nwindow = \"11min\"", "drain.window = 660s is not from 0 s to 10 min"),
        ("[limits]\noutbox_mib = 15", "limits.outbox_mib = 15 is not from 16 to 1048576"),
        ("[limits]\noutbox_mib = 1048577", "limits.outbox_mib = 1048577 is not from"),
        (
            "[tls]\ncertificate_file = \"c.pem\"",
            "tls.certificate_file = \"c.pem\" needs tls.key_file",
        ),
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
        ("TELLTALE_TLS_CERTIFICATE_FILE", "/etc/hub/chain.pem"),
        ("TELLTALE_TLS_KEY_FILE", "/etc/hub/key.pem"),
    ];
    let config = load("", &environment).unwrap();
    assert_eq!(config.workers, Some(3));
    assert_eq!(config.heartbeat.interval, Duration::from_secs(10));
    assert_eq!(config.drain.window, Duration::from_secs(60));
    assert_eq!(config.limits.outbox_mib, 64);
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
