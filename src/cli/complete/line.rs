//! The words of a line that is being typed.

/// What stands on the line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// The words after the command's name, up to the one that is being completed.
    pub before: Vec<String>,
    /// As much as there is of the word at the cursor.
    pub last: String,
}

impl Typed {
    /// Words that the shell has parted and freed from quotes; the last one is being completed.
    pub fn of(words: &[String]) -> Typed {
        match words.split_last() {
            Some((last, before)) => Typed { before: before.to_vec(), last: last.clone() },
            None => Typed::default(),
        }
    }

    /// A line up to the cursor, as it was typed in bash, with the command's name first.
    pub fn in_line(line: &str) -> Typed {
        let words = parted(line);
        // `NAME=value` before the command are for its environment.
        let is_setting = |word: &&String| {
            word.split_once('=').is_some_and(|(n, _)| {
                !n.is_empty() && n.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
            })
        };
        let settings = words.iter().take_while(is_setting).count();
        Typed::of(words.get(settings + 1..).unwrap_or_default())
    }
}

/// The words of a line, freed from quotes and backslashes; the last one may be empty, and its quote open.
fn parted(line: &str) -> Vec<String> {
    let (mut words, mut word, mut begun, mut quote) = (Vec::new(), String::new(), false, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, ' ' | '\t' | '\n') => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '\\') => word.extend(chars.next()),
            (Some('"'), '\\') => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                other => {
                    word.push('\\');
                    word.extend(other);
                }
            },
            (_, c) => word.push(c),
        }
        begun = true;
    }
    words.push(word);
    words
}

/// One word, freed from quotes.
pub fn unquoted(word: &str) -> String {
    parted(word).into_iter().next_back().unwrap_or_default()
}

pub fn home() -> Option<String> {
    std::env::var("HOME").ok().filter(|h| h.starts_with('/'))
}

/// A path that may begin with the home directory's sign.
pub fn expanded(path: &str) -> String {
    match (path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')), home()) {
        (Some(rest), Some(home)) => home + rest,
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parted_as_bash_does() {
        for (line, before, last) in [
            ("nacrefs umount /m", &["umount"][..], "/m"),
            ("nacrefs umount ", &["umount"], ""),
            ("A_1=b nacrefs  'a b' \"c \\\" d\\e\" f\\ g", &["a b", "c \" d\\e"], "f g"),
            ("nacrefs cat 'my fi", &["cat"], "my fi"),
            ("nacrefs cat \"my\\", &["cat"], "my\\"),
            ("nacrefs cat '' --at=", &["cat", ""], "--at="),
            ("nacrefs", &[], ""),
            ("", &[], ""),
        ] {
            assert_eq!(
                Typed::in_line(line),
                Typed { before: before.iter().map(ToString::to_string).collect(), last: last.into() }
            );
        }
        assert_eq!(unquoted("/my\\ dr"), "/my dr");
    }

    #[test]
    fn only_ones_own_home_is_expanded() {
        assert_eq!(expanded("~/a"), home().unwrap() + "/a");
        assert_eq!(expanded("~"), home().unwrap());
        assert_eq!(expanded("~joe/a"), "~joe/a");
        assert_eq!(expanded("a~"), "a~");
    }
}
