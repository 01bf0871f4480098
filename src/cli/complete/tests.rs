//! What is offered where.

use super::*;
use crate::cli::args::definition;

fn offered(line: &str) -> (Vec<&'static str>, Vec<String>) {
    let typed = Typed::in_line(&format!("nacrefs {line}"));
    let mut answer = answer(&definition(), &typed);
    answer.candidates.retain(|c| c.value.starts_with(&typed.last));
    (answer.hints, answer.candidates.into_iter().map(|c| c.value).collect())
}

#[test]
fn names_of_commands_and_options_are_offered() {
    assert_eq!(offered("um").1, ["umount"]);
    assert!(offered("").1.contains(&"mount".into()));
    assert!(!offered("").1.contains(&"complete".into()), "it is not for people");
    assert_eq!(offered("key li").1, ["list"]);
    assert_eq!(offered("mount --passphrase-").1, ["--passphrase-file"]);
    assert!(offered("-").1.contains(&"--verbose".into()));
    assert!(offered("check /s -").1.contains(&"--read-data".into()));
    assert!(offered("help mou").1.contains(&"mount".into()));
}

#[test]
fn values_are_offered_by_what_they_are() {
    for (line, hint) in [
        ("mount ", "dirs"),
        ("mount /srv/store /m", "dirs"),
        ("init ", "dirs"),
        ("umount ", "paths"),
        ("status ", "dirs"),
        ("log ", "files"),
        ("cat ~/drive/", "files"),
        ("mount --key-file ", "files"),
        ("mount --key-file=/e", "files"),
        ("mount --state-dir ", "dirs"),
        ("mount -vo ro --state-dir ", "dirs"),
        ("cat --at 3 -- ", "files"),
    ] {
        assert_eq!(offered(line).0, [hint], "{line}");
    }
    for line in ["cat /f /g", "check --subset ", "frobnicate ", "mount --colour red ", "mount -x "] {
        assert_eq!(offered(line), (vec![], vec![]), "{line}");
    }
    assert_eq!(offered("completions z").1, ["zsh"]);
    assert!(offered("man ").1.contains(&"mount".into()));
}

#[test]
fn lists_of_mount_options_are_completed_at_their_end() {
    assert_eq!(offered("mount -o allow").1, ["allow_other"]);
    assert_eq!(offered("mount -o ro,memo").1, ["ro,memory="]);
    assert_eq!(offered("mount -oro,memo").1, ["-oro,memory="]);
    assert_eq!(offered("mount /srv/store /mnt -o sync").1.first().unwrap(), "sync=store");
    let all = offered("mount -o ").1;
    for option in ["ro", "uid=", "gid=", "state_dir=", "key_file=", "foreground", "nonempty"] {
        assert!(all.contains(&option.into()), "{option} {all:?}");
    }
}

#[test]
fn a_store_that_is_not_mounted_is_not_opened_for_its_versions() {
    assert_eq!(offered("cat --store /srv/store f --at ").1, ["yesterday"]);
    assert_eq!(offered("cat --at=yes").1, ["--at=yesterday"]);
}

#[test]
fn an_answer_has_a_line_for_each_and_none_that_could_be_two() {
    let mut answer = Answer::default();
    answer.add("--at=12", "at\tnoon");
    answer.add("--at=a\nb", "");
    assert_eq!(answer.print(0, true), ":\n--at=12\tat noon\n");
    assert_eq!(answer.print(5, false), ":\n12\n");
    let mut answer = Answer { hints: vec!["files"], ..Answer::default() };
    answer.add("memory=", "");
    assert_eq!(answer.print(0, false), ":files,nospace\nmemory=\n");
}

#[test]
fn every_value_that_a_command_takes_is_known_here() {
    fn look(command: &Command, seen: &mut usize) {
        for c in command.get_subcommands().filter(|c| c.get_name() != "help") {
            look(c, seen);
        }
        for arg in command.get_arguments().filter(|a| a.get_action().takes_values()) {
            if arg.get_possible_values().is_empty() {
                *seen += 1;
                let name = value_name(arg);
                assert!(
                    known(command.get_name(), &name).is_some(),
                    "{} {name}: say in `known` what it is",
                    command.get_name()
                );
            }
        }
    }
    let mut seen = 0;
    look(&definition(), &mut seen);
    assert!(seen > 30, "{seen}");
}
