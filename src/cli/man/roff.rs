//! Text as man(1) takes it: roff with the macros of man(7).

/// A page, or a part of one, that is being written.
#[derive(Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// `date` is that of the text, `YYYY-MM-DD`.
    pub fn new(name: &str, section: u8, date: &str, source: &str, manual: &str) -> Page {
        let [name, source, manual] = [name, source, manual].map(plain);
        Page { text: format!(".TH \"{name}\" {section} \"{date}\" \"{source}\" \"{manual}\"\n") }
    }

    pub fn section(&mut self, title: &str) {
        self.text.push_str(&format!(".SH {}\n", plain(title)));
    }

    /// Paragraphs, parted by empty lines.
    pub fn paragraphs(&mut self, text: &str) {
        for (i, paragraph) in text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()).enumerate() {
            if i > 0 || !self.text.lines().last().is_some_and(|l| l.starts_with(".SH ")) {
                self.text.push_str(".PP\n");
            }
            self.lines(paragraph);
        }
    }

    /// A term, in roff, and what it means.
    pub fn term(&mut self, term: &str, meaning: &str) {
        self.text.push_str(&format!(".TP\n{term}\n"));
        for (i, paragraph) in meaning.split("\n\n").map(str::trim).filter(|p| !p.is_empty()).enumerate() {
            if i > 0 {
                self.text.push_str(".IP\n");
            }
            self.lines(paragraph);
        }
    }

    /// Lines that stay as they are.
    pub fn example(&mut self, lines: &[&str]) {
        self.text.push_str(".EX\n");
        for line in lines {
            self.raw(&plain(line));
        }
        self.text.push_str(".EE\n");
    }

    /// A line that is roff already.
    pub fn raw(&mut self, line: &str) {
        // A dot or a quote at its beginning would be a request.
        if line.starts_with(['.', '\'']) {
            self.text.push_str("\\&");
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn lines(&mut self, paragraph: &str) {
        for line in paragraph.lines() {
            self.raw(&plain(line.trim()));
        }
    }

    pub fn finish(self) -> String {
        self.text
    }
}

/// Text without a meaning for roff. Signs that roff would make typographic stay as they can be typed.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\(rs"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '`' => out.push_str("\\(ga"),
            '"' => out.push_str("\\(dq"),
            '~' => out.push_str("\\(ti"),
            '^' => out.push_str("\\(ha"),
            c => out.push(c),
        }
    }
    out
}

pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", plain(text))
}

pub fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", plain(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_taken_for_a_request() {
        let mut page = Page::new("x", 1, "2026-11-22", "x 1", "Commands");
        page.section("NAME");
        page.paragraphs(".so /etc/passwd\n'quoted\n\nsecond \\n \"~/a-b\"");
        page.term(&bold("-x"), ".first\n\n.second");
        page.example(&[".history", "  'a'"]);
        let want = ".TH \"x\" 1 \"2026-11-22\" \"x 1\" \"Commands\"\n.SH NAME\n\
                    \\&.so /etc/passwd\n\\(aqquoted\n.PP\nsecond \\(rsn \\(dq\\(ti/a\\-b\\(dq\n\
                    .TP\n\\fB\\-x\\fR\n\\&.first\n.IP\n\\&.second\n.EX\n\\&.history\n  \\(aqa\\(aq\n.EE\n";
        assert_eq!(page.finish(), want);
    }
}
