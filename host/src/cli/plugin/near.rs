//! Names that somebody may have meant.

/// `; did you mean …?` if one of `names` is near, else what the hub has.
pub(super) fn hint(asked: &str, names: &[&str]) -> String {
    match nearest(asked, names) {
        Some(name) => format!("; did you mean `{name}`?"),
        None if names.is_empty() => "; the hub has none".to_owned(),
        None => format!("; the hub has {}", names.join(", ")),
    }
}

/// `; did you mean …?` if one of `names` is near.
pub(in crate::cli) fn suggestion(asked: &str, names: &[&str]) -> String {
    nearest(asked, names).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The name that takes the fewest changes, if these are few.
fn nearest<'a>(asked: &str, names: &[&'a str]) -> Option<&'a str> {
    let (changes, name) = names.iter().map(|name| (distance(asked, name), *name)).min()?;
    (changes <= 2.min(name.len() / 2)).then_some(name)
}

/// How many letters must be put in, taken out or changed to get from one word
/// to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_suggested_and_what_is_not_is_listed() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let names = ["system", "zscore"];
        assert_eq!(hint("sytsem", &names), "; did you mean `system`?");
        assert_eq!(hint("z-score", &names), "; did you mean `zscore`?");
        assert_eq!(hint("thermometer", &names), "; the hub has system, zscore");
        assert_eq!(hint("x", &[]), "; the hub has none");
    }
}
