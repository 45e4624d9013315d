//! What series, units and labels are called in an exposition: OpenTelemetry's
//! rules of compatibility with Prometheus.

use crate::model::{Kind, Labels};

/// The label that holds the plugin: OpenTelemetry's for who has measured.
const SCOPE: &str = "otel_scope_name";

/// UCUM's units that have a word, in the plural and in the singular.
const UNITS: &[(&str, &str, &str)] = &[
    ("ns", "nanoseconds", "nanosecond"),
    ("us", "microseconds", "microsecond"),
    ("ms", "milliseconds", "millisecond"),
    ("s", "seconds", "second"),
    ("min", "minutes", "minute"),
    ("h", "hours", "hour"),
    ("d", "days", "day"),
    ("wk", "weeks", "week"),
    ("mo", "months", "month"),
    ("a", "years", "year"),
    ("bit", "bits", "bit"),
    ("By", "bytes", "byte"),
    ("kBy", "kilobytes", "kilobyte"),
    ("MBy", "megabytes", "megabyte"),
    ("GBy", "gigabytes", "gigabyte"),
    ("TBy", "terabytes", "terabyte"),
    ("KiBy", "kibibytes", "kibibyte"),
    ("MiBy", "mebibytes", "mebibyte"),
    ("GiBy", "gibibytes", "gibibyte"),
    ("TiBy", "tebibytes", "tebibyte"),
    ("m", "meters", "meter"),
    ("g", "grams", "gram"),
    ("K", "kelvins", "kelvin"),
    ("Cel", "celsius", "celsius"),
    ("V", "volts", "volt"),
    ("A", "amperes", "ampere"),
    ("W", "watts", "watt"),
    ("J", "joules", "joule"),
    ("Hz", "hertz", "hertz"),
    ("%", "percent", "percent"),
];

/// A dotted name with the characters that a metric may have. A counter's own
/// `_total` goes: each of its samples gets one.
pub(super) fn base(name: &str, kind: Kind) -> String {
    let name = legal(name);
    match kind {
        Kind::Counter => name.strip_suffix("_total").map(str::to_owned).unwrap_or(name),
        Kind::Gauge | Kind::Updown => name,
    }
}

/// What a family is called whose name is `base`: with its unit at the end.
pub(super) fn family(base: &str, unit: Option<&str>) -> String {
    match unit {
        Some(unit) if !base.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) => {
            format!("{base}_{unit}")
        }
        _ => base.to_owned(),
    }
}

/// A unit in words: `By` is `bytes`, `By/s` is `bytes_per_second`; `1` is
/// `ratio` for a gauge and nothing else, and what stands in braces is a remark.
pub(super) fn unit(unit: &str, kind: Kind) -> Option<String> {
    if unit == "1" {
        return (kind == Kind::Gauge).then(|| "ratio".to_owned());
    }
    let unit = without_remarks(unit);
    let mut words = String::new();
    for (at, part) in unit.split('/').enumerate() {
        let known = UNITS.iter().find(|(ucum, ..)| *ucum == part);
        let word = match known {
            Some((_, plural, _)) if at == 0 => (*plural).to_owned(),
            Some((.., singular)) => (*singular).to_owned(),
            None if part == "1" => continue,
            None => legal(part).trim_matches('_').to_owned(),
        };
        if word.is_empty() {
            continue;
        }
        let joint = match (at, words.is_empty()) {
            (0, _) => "",
            (_, true) => "per_",
            (_, false) => "_per_",
        };
        words.push_str(joint);
        words.push_str(&word);
    }
    (!words.is_empty()).then_some(words)
}

fn without_remarks(unit: &str) -> String {
    let mut depth = 0_u32;
    let outside = |c: &char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    unit.chars().filter(outside).collect()
}

/// Letters, digits and single underscores.
fn legal(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for c in word.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        if c != '_' || !text.ends_with('_') {
            text.push(c);
        }
    }
    text
}

/// The labels of a sample, in braces. Two that have the same name there become
/// one with both values, and one that is empty is none, as for Prometheus.
pub(super) fn labels(plugin: &str, labels: &Labels) -> String {
    let mut named: Vec<(String, String)> = Vec::new();
    for (key, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        let name = match legal(key) {
            own if own == SCOPE => format!("exported_{SCOPE}"),
            name => name,
        };
        match named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => {
                values.push(';');
                values.push_str(value);
            }
            None => named.push((name, value.to_owned())),
        }
    }
    let mut text = format!("{{{SCOPE}=\"{}\"", escape(plugin));
    for (name, value) in named {
        text.push(',');
        text.push_str(&name);
        text.push_str("=\"");
        text.push_str(&escape(&value));
        text.push('"');
    }
    text.push('}');
    text
}

/// A label's value between quotes, or a help text of OpenMetrics.
pub(super) fn escape(text: &str) -> String {
    escape_help(text).replace('"', "\\\"")
}

/// A help text of Prometheus' own format, which knows no escaped quotes. Lines
/// are all that a control character may mean there.
pub(super) fn escape_help(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_become_words() {
        for (ucum, words) in [
            ("s", Some("seconds")),
            ("By", Some("bytes")),
            ("By/s", Some("bytes_per_second")),
            ("By{wire}/s", Some("bytes_per_second")),
            ("{request}", None),
            ("{request}/s", Some("per_second")),
            ("1/s", Some("per_second")),
            ("%", Some("percent")),
            ("Cel", Some("celsius")),
            ("m/s/s", Some("meters_per_second_per_second")),
            ("[degF]", Some("degF")),
            ("", None),
            ("{", None),
            ("/", None),
        ] {
            assert_eq!(unit(ucum, Kind::Gauge).as_deref(), words, "{ucum}");
        }
        assert_eq!(unit("1", Kind::Gauge).as_deref(), Some("ratio"));
        assert_eq!(unit("1", Kind::Counter), None);
        assert_eq!(unit("1", Kind::Updown), None);
    }

    #[test]
    fn names_are_legal_and_end_with_their_unit_once() {
        let name = |dotted, kind, ucum| family(&base(dotted, kind), unit(ucum, kind).as_deref());
        assert_eq!(name("system.cpu.time", Kind::Counter, "s"), "system_cpu_time_seconds");
        assert_eq!(name("disk-io/read.bytes", Kind::Counter, "By"), "disk_io_read_bytes");
        assert_eq!(name("a..b--c", Kind::Gauge, ""), "a_b_c");
        assert_eq!(name("done.total", Kind::Counter, "{job}"), "done");
        assert_eq!(name("done.total", Kind::Gauge, "{job}"), "done_total");
        assert_eq!(name("seconds", Kind::Gauge, "s"), "seconds_seconds");
        assert_eq!(name("system.load", Kind::Gauge, "1"), "system_load_ratio");
    }

    #[test]
    fn labels_that_meet_become_one() {
        let given = [
            ("a.b", "1"),
            ("a_b", "2\"\\"),
            ("empty", ""),
            ("le", "+Inf"),
            ("otel_scope_name", "me"),
        ];
        let pairs = given.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let own = Labels::new(pairs.collect()).unwrap();
        assert_eq!(
            labels("p", &own),
            r#"{otel_scope_name="p",a_b="1;2\"\\",le="+Inf",exported_otel_scope_name="me"}"#
        );
    }

    #[test]
    fn help_stays_on_its_line() {
        assert_eq!(escape("a \"b\"\n\\\r\0"), "a \\\"b\\\"\\n\\\\  ");
        assert_eq!(escape_help("a \"b\"\n"), "a \"b\"\\n");
    }
}
