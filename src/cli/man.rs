//! Manual pages: one for each command, made from the definition of the command line, and those that stand in text
//! beside what they are about.

mod roff;

use super::{args, exit, options, output};
use crate::error::{Context, Error, Kind, Result};
use clap::{Arg, Command};
use roff::{Page, bold, italic, plain};
use std::path::Path;

/// The day of the last change to what the pages say; a release sets it (docs/RELEASE.md).
const DATE: &str = "2026-11-22";
const SOURCE: &str = concat!("nacrefs ", env!("CARGO_PKG_VERSION"));

/// Pages that stand in text: `@DATE@`, `@SOURCE@` and `@OPTIONS@` (the mount options) are filled in.
const TEXTS: &[(&str, &str)] = &[
    ("mount.nacrefs.8", include_str!("../../mount-helper/mount.nacrefs.8")),
    ("nacrefs@.service.8", include_str!("../../systemd/nacrefs@.service.8")),
];
/// Other names of a page.
const ALIASES: &[(&str, &str)] = &[
    ("mount.fuse.nacrefs.8", "mount.nacrefs.8"),
    ("umount.nacrefs.8", "mount.nacrefs.8"),
    ("umount.fuse.nacrefs.8", "mount.nacrefs.8"),
];

/// Pages that a reader of a command's page may want next, beside nacrefs(1). A command not named here has its
/// neighbours.
const RELATED: &[(&str, &[&str])] = &[
    ("nacrefs", &["mount.nacrefs(8)", "nacrefs@.service(8)", "mount.fuse3(8)", "fstab(5)"]),
    ("nacrefs mount", &["nacrefs-umount(1)", "mount.nacrefs(8)", "nacrefs@.service(8)", "fusermount3(1)"]),
    ("nacrefs umount", &["nacrefs-mount(1)", "nacrefs-sync(1)", "mount.nacrefs(8)", "umount(8)"]),
    ("nacrefs init", &["nacrefs-mount(1)", "nacrefs-key(1)"]),
    ("nacrefs sync", &["nacrefs-status(1)", "nacrefs-umount(1)", "sync(1)"]),
    ("nacrefs status", &["nacrefs-sync(1)", "nacrefs-log(1)"]),
    ("nacrefs log", &["nacrefs-cat(1)", "nacrefs-status(1)"]),
    ("nacrefs cat", &["nacrefs-log(1)"]),
    ("nacrefs check", &["nacrefs-status(1)", "nacrefs-accept(1)"]),
    ("nacrefs accept", &["nacrefs-check(1)", "nacrefs-log(1)"]),
    ("nacrefs man", &["man(1)", "nacrefs-completions(1)"]),
    ("nacrefs completions", &["bash(1)", "zsh(1)", "fish(1)"]),
];

/// Prints a page, or writes all of them below a directory.
pub fn run(args: &args::Man) -> Result<()> {
    let pages = pages();
    if let Some(dir) = &args.dir {
        return pages.iter().try_for_each(|(name, text)| write(dir, name, text));
    }
    let wanted = args.command.join("-");
    // `mount` and `nacrefs-mount` are the same; `mount.nacrefs` is a name of its own.
    let found = pages.iter().find(|(file, _)| {
        let name = file.rsplit_once('.').map_or(file.as_str(), |(name, _)| name);
        name == wanted || name.strip_prefix("nacrefs").is_some_and(|n| n.trim_start_matches('-') == wanted)
    });
    let found = found.map(|(file, text)| {
        let alias = ALIASES.iter().find(|(alias, _)| file == alias).map(|(_, page)| *page);
        alias.and_then(|page| pages.iter().find(|(file, _)| file == page)).map_or(text, |(_, text)| text)
    });
    let Some(text) = found else {
        let name = args.command.join(" ");
        return Err(Error::new(
            Kind::Usage,
            format!("no command {name:?} to print the page of (see nacrefs --help)"),
        ));
    };
    output::print(text)
}

/// Writes a page into the directory of its section.
fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let section = name.rsplit_once('.').map_or(name, |(_, section)| section);
    let dir = dir.join(format!("man{section}"));
    std::fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(name);
    std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
}

/// All pages: file names and texts.
pub fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    let root = args::definition();
    add_pages(&root, &[], &mut pages);
    let mut options = Page::default();
    sections(&mut options, options::HELP);
    let options = options.finish();
    for (name, text) in TEXTS {
        let text = text.replace("@DATE@", DATE).replace("@SOURCE@", SOURCE).replace("@OPTIONS@\n", &options);
        pages.push((name.to_string(), text));
    }
    // man(1) follows these.
    pages.extend(ALIASES.iter().map(|(alias, page)| (alias.to_string(), format!(".so man8/{page}\n"))));
    pages
}

fn add_pages(command: &Command, above: &[&Command], pages: &mut Vec<(String, String)>) {
    let line: Vec<&Command> = above.iter().copied().chain([command]).collect();
    pages.push((format!("{}.1", names(&line).join("-")), page(&line)));
    for below in shown(command) {
        add_pages(below, &line, pages);
    }
}

/// The commands below one that people are told of.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help")
}

fn names<'c>(line: &[&'c Command]) -> Vec<&'c str> {
    line.iter().map(|c| c.get_name()).collect()
}

/// The page of the last command of a line of them, each below the one before.
fn page(line: &[&Command]) -> String {
    let (Some(command), names) = (line.last(), names(line)) else { return String::new() };
    let (title, typed) = (names.join("-"), names.join(" "));
    let mut page = Page::new(&title, 1, DATE, SOURCE, "User Commands");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.section("NAME");
    // man(1) reads one line here, and no more than that.
    page.raw(&format!("{} \\- {}", plain(&title), plain(&about)));
    page.section("SYNOPSIS");
    page.raw(&synopsis(command, &typed));
    page.section("DESCRIPTION");
    page.paragraphs(&command.get_long_about().map_or(about, ToString::to_string));
    for alias in command.get_visible_aliases() {
        page.paragraphs(&format!("It is also called {alias}."));
    }
    arguments(&mut page, command);
    if command.get_subcommands().next().is_some() {
        page.section("COMMANDS");
        for below in shown(command) {
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            page.term(&reference(&format!("{title}-{}(1)", below.get_name())), &about);
        }
    }
    let help = command.get_after_long_help().or(command.get_after_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    sections(&mut page, &help);
    if !help.contains(exit::HELP) {
        sections(&mut page, exit::HELP);
    }
    places(&mut page, command, names.len() == 1);
    see_also(&mut page, line, &typed);
    page.finish()
}

fn synopsis(command: &Command, typed: &str) -> String {
    let mut out = bold(typed);
    let options = command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_positional());
    for arg in options.filter(|a| !["help", "version", "verbose"].contains(&a.get_id().as_str())) {
        out.push_str(&format!(" [{}]", option(arg, false)));
    }
    for arg in command.get_positionals() {
        let name = italic(&value_name(arg));
        let dots = if arg.get_num_args().is_some_and(|n| n.max_values() > 1) { "..." } else { "" };
        out.push_str(&if arg.is_required_set() {
            format!(" {name}{dots}")
        } else {
            format!(" [{name}{dots}]")
        });
    }
    if command.get_subcommands().next().is_some() {
        out.push_str(&format!(" {} ...", italic("COMMAND")));
    }
    out
}

/// `-o OPT`, `--key-file F`, or all the names that an option has.
fn option(arg: &Arg, all: bool) -> String {
    let short = arg.get_short().map(|c| bold(&format!("-{c}")));
    let long = arg.get_long().map(|l| bold(&format!("--{l}")));
    let names: Vec<String> = match (short, long) {
        (Some(short), Some(_)) if !all => vec![short],
        (short, long) => short.into_iter().chain(long).collect(),
    };
    let value = if arg.get_action().takes_values() {
        format!(" {}", italic(&value_name(arg)))
    } else {
        String::new()
    };
    names.join(", ") + &value
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string)
}

fn arguments(page: &mut Page, command: &Command) {
    let help = |arg: &Arg| {
        let mut text = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
        if arg.get_action().takes_values() && !values.is_empty() {
            text.push_str(&format!("\n\nOne of {}", values.join(", ")));
        }
        text
    };
    let visible = || command.get_arguments().filter(|a| !a.is_hide_set());
    if command.get_positionals().next().is_some() {
        page.section("ARGUMENTS");
        for arg in visible().filter(|a| a.is_positional()) {
            page.term(&italic(&value_name(arg)), &help(arg));
        }
    }
    page.section("OPTIONS");
    for arg in visible().filter(|a| !a.is_positional()) {
        page.term(&option(arg, true), &help(arg));
    }
}

/// What help shows last: a line that begins at the margin and ends in a colon heads a section. In a section of
/// examples the lines stay as they are; elsewhere those with a gap in them are terms and their meanings.
fn sections(page: &mut Page, help: &str) {
    let is_head = |line: &str| line.ends_with(':') && !line.starts_with(' ');
    let mut lines = help.lines().filter(|l| !l.trim().is_empty()).peekable();
    while let Some(line) = lines.next() {
        if !is_head(line) {
            page.paragraphs(line);
            continue;
        }
        let title = line.trim_end_matches(':').split(" (").next().unwrap_or_default().to_uppercase();
        page.section(&title);
        let mut body = Vec::new();
        while let Some(next) = lines.next_if(|l| !is_head(l)) {
            body.push(next);
        }
        if title.starts_with("EXAMPLE") {
            let lines: Vec<&str> = body.iter().map(|l| l.strip_prefix("  ").unwrap_or(l)).collect();
            page.example(&lines);
            continue;
        }
        let mut body = body.into_iter().peekable();
        while let Some(line) = body.next() {
            // A meaning goes on further in than where terms begin, a paragraph at the margin.
            let margin = !line.starts_with(' ');
            let mut more = String::new();
            while let Some(next) =
                body.next_if(|l| if margin { !l.starts_with(' ') } else { l.starts_with("        ") })
            {
                more.push_str(&format!("\n{}", next.trim()));
            }
            match line.trim().split_once("  ").filter(|_| !margin) {
                Some((term, meaning)) => page.term(&bold(term), &format!("{}{more}", meaning.trim())),
                None => page.paragraphs(&format!("{}{more}", line.trim())),
            }
        }
    }
}

/// ENVIRONMENT and FILES, of commands that open a drive.
fn places(page: &mut Page, command: &Command, is_root: bool) {
    let has = |id: &str| is_root || command.get_arguments().any(|a| a.get_id() == id);
    let mut environment = Vec::new();
    if has("passphrase_file") {
        environment.extend([
            ("NACREFS_PASSPHRASE_FILE", "A file whose first line is the passphrase."),
            ("NACREFS_PASSPHRASE_COMMAND", "A command whose first line of output is the passphrase."),
            ("NACREFS_PASSPHRASE", "The passphrase itself. Other processes of the same user can read it."),
        ]);
    }
    if has("new_passphrase_file") {
        environment.extend([
            ("NACREFS_NEW_PASSPHRASE_FILE", "A file whose first line is the new passphrase."),
            ("NACREFS_NEW_PASSPHRASE_COMMAND", "A command whose first line of output is the new passphrase."),
            ("NACREFS_NEW_PASSPHRASE", "The new passphrase itself."),
        ]);
    }
    if has("state_dir") {
        environment.push(("NACREFS_STATE_DIR", "The state directory, where --state-dir is not given."));
    }
    if has("foreground") {
        environment.push(("NACREFS_LOG", "What is logged: a level, or MODULE=LEVEL, parted by commas."));
    }
    if !environment.is_empty() {
        page.section("ENVIRONMENT");
        environment.iter().for_each(|(name, what)| page.term(&bold(name), what));
    }
    if !has("state_dir") {
        return;
    }
    page.section("FILES");
    for (user, root, what) in [
        ("~/.local/share/nacrefs/store", "/var/lib/nacrefs/store", "The store of the default drive."),
        ("~/.config/nacrefs/key", "/etc/nacrefs/key", "Its key file. Back it up."),
        (
            "~/.local/state/nacrefs/DRIVE",
            "/var/lib/nacrefs/DRIVE",
            "The state directory: the journal, which holds what is not in the store yet, and what can be made anew.",
        ),
        (
            "$XDG_RUNTIME_DIR/nacrefs",
            "/run/nacrefs",
            "Log and control socket of read-only mounts whose state directory is on a read-only file system.",
        ),
    ] {
        page.term(&format!("{}, for root {}", italic(user), italic(root)), what);
    }
    page.paragraphs("XDG_DATA_HOME, XDG_CONFIG_HOME and XDG_STATE_HOME take the place of the first three where they are set.");
}

fn see_also(page: &mut Page, line: &[&Command], typed: &str) {
    let related = RELATED.iter().find(|(name, _)| *name == typed).map(|(_, pages)| *pages);
    let mut all: Vec<String> = related.unwrap_or_default().iter().map(ToString::to_string).collect();
    let names = names(line);
    if related.is_none()
        && let [above @ .., command] = line
        && let Some(parent) = above.last()
        && above.len() > 1
    {
        let before = names.get(..above.len()).unwrap_or_default().join("-");
        let neighbours = shown(parent).filter(|c| c.get_name() != command.get_name());
        all.extend(neighbours.map(|c| format!("{before}-{}(1)", c.get_name())));
    }
    if names.len() > 1 {
        all.insert(0, "nacrefs(1)".to_owned());
    }
    page.section("SEE ALSO");
    let all: Vec<String> = all.iter().map(|r| reference(r)).collect();
    page.raw(&all.join(", "));
}

/// `name(1)`, the name in bold.
fn reference(page: &str) -> String {
    page.split_once('(').map_or_else(|| plain(page), |(name, section)| format!("{}({section}", bold(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_command_has_a_page_with_every_section_that_makes_sense() {
        let pages = pages();
        let text = |name: &str| &pages.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}")).1;
        for (name, page) in pages.iter().filter(|(name, _)| name.ends_with(".1")) {
            for title in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"] {
                assert_eq!(page.matches(&format!("\n.SH {title}\n")).count(), 1, "{title} in {name}");
            }
            let is_group = page.contains(".SH COMMANDS");
            assert!(is_group || page.contains(".SH EXAMPLES\n.EX\n"), "{name}");
        }
        let mount = text("nacrefs-mount.1");
        for part in [
            "\\fBnacrefs mount\\fR [\\fB\\-o\\fR \\fIOPT,…\\fR]",
            " [\\fISTORE\\fR] \\fIDIR\\fR\n",
            ".TP\n\\fBallow_other\\fR\n",
            ".TP\n\\fB6\\fR\nconflict, or already in use\n",
            ".SH ENVIRONMENT\n",
            ".SH FILES\n",
        ] {
            assert!(mount.contains(part), "{part}\n{mount}");
        }
        let helper = text("mount.nacrefs.8");
        for part in
            [".SH MOUNT OPTIONS\n", ".TP\n\\fBallow_other\\fR\n", "\n.BR nofail ,\n", ".SH EXAMPLES\n"]
        {
            assert!(helper.contains(part), "{part}\n{helper}");
        }
        assert_eq!(text("umount.fuse.nacrefs.8"), ".so man8/mount.nacrefs.8\n");
        assert!(text("nacrefs-completions.1").contains("One of bash, "));
        assert!(!text("nacrefs-sync.1").contains(".SH FILES"));
        assert!(text("nacrefs-key-list.1").contains("nacrefs key list"));
    }

    /// Each page that another one leads to is there, save those of other packages.
    #[test]
    fn references_lead_somewhere() {
        let pages = pages();
        let names: BTreeSet<String> = pages.iter().map(|(n, _)| n.clone()).collect();
        let mut seen = 0;
        for (name, page) in &pages {
            for (at, _) in page.match_indices("\\fBnacrefs").chain(page.match_indices("\\fBmount.nacrefs")) {
                let rest =
                    page[at + 3..].split_whitespace().next().unwrap().replace("\\-", "-").replace("\\fR", "");
                let Some((to, section)) = rest.split_once('(') else { continue };
                let file = format!("{to}.{}", &section[..1]);
                assert!(names.contains(&file), "{name} leads to {file}");
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn pages_are_written_where_they_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in pages() {
            write(dir.path(), &name, &text).unwrap();
            assert!(text.starts_with(".TH ") || text.starts_with(".so "), "{name}");
            for mark in ["@DATE@", "@SOURCE@", "@OPTIONS@"] {
                assert!(!text.contains(mark), "{mark} in {name}");
            }
        }
        assert!(
            dir.path().join("man1/nacrefs.1").exists() && dir.path().join("man8/mount.nacrefs.8").exists()
        );
        std::fs::write(dir.path().join("file"), "").unwrap();
        let e = write(&dir.path().join("file"), "x.1", "").unwrap_err();
        assert!(e.to_string().contains("file/man1"));
    }
}
