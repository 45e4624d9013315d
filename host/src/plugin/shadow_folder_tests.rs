use super::super::instance::Saved;
use super::*;

/// A data folder and a plugins folder with the detector `d` as it was.
struct Desk {
    folder: tempfile::TempDir,
    shadows: ShadowFolder,
    states: StateFolder,
}

const OLD: &[u8] = b"the old component";
const NEW: &[u8] = b"the new component";

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plugins")).unwrap();
        let shadows = ShadowFolder::open(folder.path().join("shadows")).unwrap();
        let states = StateFolder::open(folder.path().join("states")).unwrap();
        let desk = Self { folder, shadows, states };
        fs::write(desk.plugins().join("d.wasm"), OLD).unwrap();
        fs::write(desk.plugins().join("d.toml"), "# old\n").unwrap();
        desk.states.write("d", Standing::Good, &kept(OLD, 1)).unwrap();
        desk.shadows.keep_shadow("d", &edition(NEW, Some("# new\n")), NEW).unwrap();
        desk
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// What the plugins folder holds, and what the next start would know.
    fn stands(&self) -> (Vec<u8>, Option<String>, Option<Saved>) {
        let component = fs::read(self.plugins().join("d.wasm")).unwrap();
        let state = self.states.read_for("d", blake3::hash(&component));
        (component, fs::read_to_string(self.plugins().join("d.toml")).ok(), state)
    }

    fn start(&self) {
        let shadows = ShadowFolder::open(self.folder.path().join("shadows")).unwrap();
        shadows.finish(&self.plugins(), &self.states).unwrap();
    }
}

fn edition(bytes: &[u8], settings: Option<&str>) -> Edition {
    let settings = settings.map(str::to_owned);
    Edition { component: hash(bytes), settings, since: "then".to_owned() }
}

fn kept(by: &[u8], byte: u8) -> Kept {
    let saved = Saved { version: 1, bytes: vec![byte; 4].into() };
    Kept { component: blake3::hash(by), saved }
}

fn promotion() -> (Exchange, ExchangedStates) {
    let before = Some(edition(OLD, Some("# old\n")));
    let settings = SettingsFile::Is("# new\n".to_owned());
    let there = FilesThere { component: Some(hash(OLD)), settings: Some(hash(b"# old\n")) };
    let exchange = Exchange { to: hash(NEW), settings, before, replaces: Some(there) };
    (exchange, ExchangedStates { to: Some(kept(NEW, 2)), before: Some(kept(OLD, 1)) })
}

/// What was decided is a file; whatever of it was done before a kill, the next
/// start does the rest.
#[test]
fn an_exchange_that_is_interrupted_leaves_the_old_or_the_new_and_never_a_mixture() {
    let (exchange, states) = promotion();
    let new = (NEW.to_vec(), Some("# new\n".to_owned()), Some(kept(NEW, 2).saved));
    let desk = Desk::new();
    let old = desk.stands();
    // Interrupted while it was being decided: states and components are there.
    desk.shadows.decide("d", &exchange, &states, Some(OLD)).unwrap();
    fs::remove_file(desk.shadows.record("d", "exchange")).unwrap();
    desk.start();
    assert_eq!(desk.stands(), old);
    assert!(desk.shadows.shadow("d").is_some() && desk.shadows.before("d").is_none());
    // Interrupted after each of the steps that follow the decision.
    type Step = fn(&Desk);
    let steps: [Step; 5] = [
        |_| {},
        |desk| fs::write(desk.plugins().join("d.toml"), "# new\n").unwrap(),
        |desk| fs::write(desk.plugins().join("d.wasm"), NEW).unwrap(),
        |desk| desk.shadows.write("d", "before", &edition(OLD, Some("# old\n"))).unwrap(),
        |desk| desk.shadows.forget("d", "shadow").unwrap(),
    ];
    for done in 0..=steps.len() {
        let desk = Desk::new();
        desk.shadows.decide("d", &exchange, &states, Some(OLD)).unwrap();
        steps[..done].iter().for_each(|step| step(&desk));
        desk.start();
        assert_eq!(desk.stands(), new, "interrupted after {done} steps");
        assert_eq!(desk.shadows.shadow("d"), None);
        let (before, state) = desk.shadows.before("d").unwrap();
        assert_eq!((before, state), (edition(OLD, Some("# old\n")), Some(kept(OLD, 1))));
        assert_eq!(desk.shadows.component(&hash(OLD)).unwrap(), OLD);
        desk.start();
        assert_eq!(desk.stands(), new, "and starting again changes nothing");
    }
}

#[test]
fn going_back_ends_what_was_to_be_gone_back_to() {
    let desk = Desk::new();
    let (exchange, states) = promotion();
    desk.shadows.decide("d", &exchange, &states, Some(OLD)).unwrap();
    desk.start();
    let (edition, state) = desk.shadows.before("d").unwrap();
    let there = FilesThere::of("d", &desk.plugins()).unwrap();
    let (to, settings) = (edition.component, SettingsFile::Goes);
    let back = Exchange { to, settings, before: None, replaces: Some(there) };
    let states = ExchangedStates { to: state, before: None };
    desk.shadows.decide("d", &back, &states, None).unwrap();
    desk.start();
    assert_eq!(desk.stands(), (OLD.to_vec(), None, Some(kept(OLD, 1).saved)));
    assert_eq!(desk.shadows.before("d"), None);
    let left: Vec<_> =
        fs::read_dir(&desk.shadows.path).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "nothing is kept that nobody needs");
}

#[test]
fn an_exchange_with_a_component_that_is_damaged_is_not_decided() {
    let desk = Desk::new();
    let (exchange, states) = promotion();
    fs::write(desk.shadows.file(&hash(NEW)), b"the n").unwrap();
    let old = desk.stands();
    desk.shadows.decide("d", &exchange, &states, Some(OLD)).unwrap_err();
    desk.start();
    assert_eq!(desk.stands(), old);
}

/// What somebody has put there since is newer than what was decided.
#[test]
fn an_exchange_gives_way_to_files_that_have_come_since() {
    for (file, bytes) in [("d.wasm", &b"another"[..]), ("d.toml", b"# another\n")] {
        let desk = Desk::new();
        let (exchange, states) = promotion();
        desk.shadows.decide("d", &exchange, &states, Some(OLD)).unwrap();
        fs::write(desk.plugins().join(file), bytes).unwrap();
        let there = desk.stands();
        desk.start();
        assert_eq!(desk.stands(), there);
        assert!(!desk.shadows.record("d", "exchange").exists());
    }
}

#[test]
fn an_exchange_that_cannot_be_done_waits_for_the_next_start_without_its_shadow() {
    let desk = Desk::new();
    let (exchange, states) = promotion();
    desk.shadows.decide("d", &exchange, &states, Some(OLD)).unwrap();
    let file = desk.plugins().join("d.toml");
    let blocked = desk.plugins().join(format!(".d.toml.{}", std::process::id()));
    fs::create_dir(&blocked).unwrap();
    desk.start();
    assert_eq!(fs::read_to_string(&file).unwrap(), "# old\n");
    assert!(desk.shadows.record("d", "exchange").exists());
    assert_eq!(desk.shadows.shadow("d"), None, "what was promoted is no shadow any more");
    // A shadow that has come since stays.
    let later = edition(b"later", None);
    desk.shadows.keep_shadow("d", &later, b"later").unwrap();
    fs::remove_dir(&blocked).unwrap();
    desk.start();
    assert_eq!(desk.stands().0, NEW);
    assert_eq!(desk.shadows.shadow("d"), Some(later));
}

#[test]
fn what_a_killed_hub_has_half_written_into_the_plugins_folder_goes() {
    let desk = Desk::new();
    let own = std::process::id();
    // No process has the highest number that there is.
    let half = [format!(".d.toml.{own}"), format!(".d.wasm.{}", i32::MAX)];
    let others = [".d.wasm.1", ".d.txt.2147483647", ".d.wasm.old", "d.wasm.2147483647"];
    let names = half.iter().map(String::as_str).chain(others);
    names.for_each(|name| fs::write(desk.plugins().join(name), "").unwrap());
    desk.start();
    half.iter().for_each(|name| assert!(!desk.plugins().join(name).exists(), "{name}"));
    others.iter().for_each(|name| assert!(desk.plugins().join(name).exists(), "{name}"));
}
