//! OpenMetrics text, version 1.0.0: families of samples, each with its type, unit and help.

use std::fmt::Write;
use std::time::Duration;

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the samples' name ends in `_total`.
    Counter,
    Gauge,
    /// A fact, in labels; the sample's name ends in `_info`.
    Info,
}

/// A page of metrics, in the making.
#[derive(Default)]
pub struct Page {
    text: String,
    /// The present family's samples.
    sample: String,
}

impl Page {
    /// Begins a family; its samples follow. `unit` is the end of its name, or empty.
    pub fn family(&mut self, name: &str, kind: Kind, unit: &str, help: &str) -> &mut Page {
        debug_assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name} is not in {unit}");
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Info => ("info", "_info"),
        };
        self.line(&format!("# TYPE {name} {kind}"));
        if !unit.is_empty() {
            self.line(&format!("# UNIT {name} {unit}"));
        }
        self.line(&format!("# HELP {name} {}", escape(help)));
        self.sample = format!("{name}{suffix}");
        self
    }

    /// A sample of the present family.
    pub fn value(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Page {
        self.put(labels, &value.to_string())
    }

    /// A sample that is a time.
    pub fn seconds(&mut self, labels: &[(&str, &str)], value: Duration) -> &mut Page {
        self.put(labels, &value.as_secs_f64().to_string())
    }

    fn put(&mut self, labels: &[(&str, &str)], value: &str) -> &mut Page {
        let mut line = self.sample.clone();
        for (i, (name, text)) in labels.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}{name}=\"{}\"", if i == 0 { '{' } else { ',' }, escape(text));
        }
        line.push_str(if labels.is_empty() { " " } else { "} " });
        line.push_str(value);
        self.line(&line);
        self
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// The page, with the line that says that it is whole.
    pub fn finish(mut self) -> String {
        self.line("# EOF");
        self.text
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_openmetrics_text() {
        let mut page = Page::default();
        page.family("a_bytes", Kind::Counter, "bytes", "All \"of\" it.")
            .value(&[("kind", "x\n\"y\"\\"), ("z", "1")], 7)
            .value(&[], 8);
        page.family("t_seconds", Kind::Gauge, "seconds", "T.").seconds(&[], Duration::from_millis(1500));
        page.family("b", Kind::Info, "", "B.").value(&[("v", "1")], 1);
        assert_eq!(
            page.finish(),
            "# TYPE a_bytes counter\n# UNIT a_bytes bytes\n# HELP a_bytes All \\\"of\\\" it.\n\
             a_bytes_total{kind=\"x\\n\\\"y\\\"\\\\\",z=\"1\"} 7\na_bytes_total 8\n\
             # TYPE t_seconds gauge\n# UNIT t_seconds seconds\n# HELP t_seconds T.\nt_seconds 1.5\n\
             # TYPE b info\n# HELP b B.\nb_info{v=\"1\"} 1\n# EOF\n"
        );
    }
}
