//! Where on a command line one is.

use super::line::Typed;
use clap::{Arg, Command};

/// What is being typed, and of which command.
#[derive(Debug)]
pub struct Found<'c, 't> {
    pub command: &'c Command,
    pub place: Place<'c, 't>,
}

#[derive(Debug)]
pub enum Place<'c, 't> {
    Command,
    /// The name of an option.
    Option,
    /// The value of an option or an argument, after that much of the word.
    Value {
        arg: &'c Arg,
        prefix: &'t str,
    },
    /// More than the command takes.
    Nothing,
}

/// Follows the words before the cursor. `None` where they make no sense.
pub fn walk<'c, 't>(definition: &'c Command, typed: &'t Typed) -> Option<Found<'c, 't>> {
    let mut at = At { command: definition, positionals: 0, awaiting: None, ended: false };
    typed.before.iter().try_for_each(|word| at.step(word))?;
    let last = typed.last.as_str();
    let place = match at.awaiting {
        Some(arg) => Place::Value { arg, prefix: "" },
        None if !at.ended && last.starts_with('-') => at.in_option(last),
        None if at.positionals == 0 && at.command.get_subcommands().next().is_some() => Place::Command,
        None => at.positional().map_or(Place::Nothing, |arg| Place::Value { arg, prefix: "" }),
    };
    Some(Found { command: at.command, place })
}

/// The first argument that stands before the cursor, of the command that is named there.
pub fn first_positional(command: &str, typed: &Typed) -> Option<String> {
    let definition = crate::cli::args::definition();
    let mut at = At { command: &definition, positionals: 0, awaiting: None, ended: false };
    for word in &typed.before {
        at.step(word)?;
        if at.command.get_name() == command && at.positionals == 1 {
            return Some(word.clone());
        }
    }
    None
}

struct At<'c> {
    command: &'c Command,
    positionals: usize,
    /// The option whose value comes next.
    awaiting: Option<&'c Arg>,
    /// `--` was there: no more options.
    ended: bool,
}

impl<'c> At<'c> {
    fn step(&mut self, word: &str) -> Option<()> {
        if self.awaiting.take().is_some() {
            return Some(());
        }
        if !self.ended && word == "--" {
            self.ended = true;
        } else if let Some(name) = word.strip_prefix("--").filter(|_| !self.ended) {
            let (name, value) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
            let arg = self.long(name)?;
            self.awaiting = Some(arg).filter(|a| a.get_action().takes_values() && value.is_none());
        } else if let Some(letters) = word.strip_prefix('-').filter(|l| !self.ended && !l.is_empty()) {
            self.awaiting = self.cluster(letters)?.filter(|(_, at)| *at == letters.len()).map(|(arg, _)| arg);
        } else if self.positionals == 0 && self.command.get_subcommands().next().is_some() {
            self.command = self.command.find_subcommand(word)?;
        } else {
            self.positionals += 1;
        }
        Some(())
    }

    fn long(&self, name: &str) -> Option<&'c Arg> {
        self.command.get_arguments().find(|a| a.get_long() == Some(name))
    }

    /// The option of `-abc` that takes a value, and where that begins. `None` where a letter is unknown.
    fn cluster(&self, letters: &str) -> Option<Option<(&'c Arg, usize)>> {
        for (i, letter) in letters.char_indices() {
            let arg = self.command.get_arguments().find(|a| a.get_short() == Some(letter))?;
            if arg.get_action().takes_values() {
                return Some(Some((arg, i + letter.len_utf8())));
            }
        }
        Some(None)
    }

    /// The word at the cursor begins with a dash.
    fn in_option<'t>(&self, word: &'t str) -> Place<'c, 't> {
        let value = |arg: &'c Arg, from: usize| {
            let prefix = word.get(..from).filter(|_| arg.get_action().takes_values());
            prefix.map(|prefix| Place::Value { arg, prefix })
        };
        let found = if let Some(rest) = word.strip_prefix("--") {
            rest.split_once('=').map(|(name, _)| self.long(name).and_then(|arg| value(arg, 3 + name.len())))
        } else {
            let letters = word.strip_prefix('-').unwrap_or_default();
            self.cluster(letters).flatten().map(|(arg, at)| value(arg, 1 + at))
        };
        found.map_or(Place::Option, |place| place.unwrap_or(Place::Nothing))
    }

    /// The argument that comes next.
    fn positional(&self) -> Option<&'c Arg> {
        let mut all = self.command.get_positionals();
        let last = self
            .command
            .get_positionals()
            .last()
            .filter(|a| a.get_num_args().is_some_and(|n| n.max_values() > 1));
        all.nth(self.positionals).or(last)
    }
}
