//! Reading the kernel's texts: lines of fields, which may hold any byte.

/// The lines of a text.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// The fields of a line, however many blanks are between them.
pub fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

/// A field that is a whole number.
pub fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// A field that is a number with a fraction.
pub fn decimal(field: &[u8]) -> Option<f64> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// A name as a label's value: without control characters, and not too long.
pub fn label(name: &[u8]) -> String {
    telltale_plugin::label_value(&String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_at_any_blank() {
        assert!(fields(b"  a\tb   c ").eq([&b"a"[..], b"b", b"c"]));
        assert_eq!(fields(b"").count(), 0);
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b"18446744073709551616"[..], b"", b"-1", b"1x", b"\xff"] {
            assert_eq!(number(bad), None);
        }
        assert_eq!(decimal(b"0.25"), Some(0.25));
        assert_eq!(decimal(b"\xff"), None);
    }

    #[test]
    fn labels_are_clean_and_bounded() {
        assert_eq!(label(b"a\x1b\n\xffb"), "a\u{fffd}\u{fffd}\u{fffd}b");
        assert_eq!(label(&[b'a'; 300]).len(), 256);
        let cut = label("ä".repeat(200).as_bytes());
        assert_eq!(cut.len(), 256);
        assert_eq!(label("ä€".repeat(60).as_bytes()).len(), 255);
    }
}
