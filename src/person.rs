//! What is asked of the person at the terminal: a passcode that nobody should see, and a look at an address in a
//! browser.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use keyway::keystone::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The longest passcode, bytes.
const LONGEST: u64 = 256;

/// What ends a line, what takes its last character back, and what a person ends the program or the input with.
const ENTER: [u8; 2] = [b'\r', b'\n'];
const BACK: [u8; 2] = [0x08, 0x7f];
const BREAK: [u8; 2] = [0x03, 0x04];

/// A terminal whose input is not shown until this is dropped.
struct Silent {
    terminal: io::Stdin,
    before: Termios,
}

impl Silent {
    fn new() -> io::Result<Self> {
        let terminal = io::stdin();
        let before = tcgetattr(terminal.as_fd())?;
        let mut silent = before.clone();
        // Without signals, too: nobody would put the terminal back.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal.as_fd(), OptionalActions::Flush, &self.before);
    }
}

/// Asks for a secret: at the terminal, where it is not shown, or as a line of whatever standard input is.
///
/// # Errors
/// There is none to be had; or the person wants to end this.
pub(crate) fn ask(question: &str) -> io::Result<Secret> {
    let nothing = || io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was entered");
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST as usize));
    if io::stdin().is_terminal() {
        let silent = Silent::new()?;
        eprint!("{question}: ");
        io::stderr().flush()?;
        // What is buffered would stay in memory.
        let mut keys = File::from(silent.terminal.as_fd().try_clone_to_owned()?);
        let mut key = Zeroizing::new([0]);
        loop {
            if keys.read(key.as_mut_slice())? == 0 || BREAK.contains(&key[0]) {
                eprintln!();
                return Err(nothing());
            }
            match key[0] {
                end if ENTER.contains(&end) => break,
                back if BACK.contains(&back) => drop(line.pop()),
                // What is longer is wrong anyway.
                _ if line.len() == line.capacity() => {}
                other => line.push(other),
            }
        }
        eprintln!();
    } else {
        io::stdin().lock().take(LONGEST).read_until(b'\n', &mut line)?;
    }
    let text = std::str::from_utf8(&line).map_err(|_| nothing())?.trim();
    if text.is_empty() { Err(nothing()) } else { Ok(Secret::new(text)) }
}

/// The command that shows an address in a browser; `None` on a machine without a display.
pub(crate) fn browser(variables: &[(OsString, OsString)]) -> Option<Vec<String>> {
    let variable = |name: &str| {
        let (_, value) = variables.iter().find(|(known, _)| known == name)?;
        value.to_str().filter(|value| !value.is_empty())
    };
    variable("DISPLAY").or_else(|| variable("WAYLAND_DISPLAY"))?;
    // A list, as elsewhere; the first one counts.
    let command = variable("BROWSER").and_then(|browsers| browsers.split(':').next()).unwrap_or("xdg-open");
    let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// Shows an address in a browser. It is left alone: whether it works is for the person to see.
pub(crate) fn open(browser: &[String], inherited: &[(OsString, OsString)], address: &str) -> io::Result<()> {
    let (program, words) = browser.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let has_place = words.iter().any(|word| word.contains("%s"));
    let mut command = Command::new(program);
    command.args(words.iter().map(|word| word.replace("%s", address)));
    if !has_place {
        command.arg(address);
    }
    command.env_clear().envs(inherited.iter().cloned());
    // What ends keyway does not end the browser.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_browser(variables: &[(&str, &str)], expected: Option<&[&str]>) {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let expected = expected.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(browser(&variables), expected);
    }

    #[test]
    fn a_browser_opens_where_there_is_a_display() {
        check_browser(&[], None);
        check_browser(&[("BROWSER", "firefox")], None);
        check_browser(&[("DISPLAY", ""), ("BROWSER", "firefox")], None);
        check_browser(&[("DISPLAY", ":0")], Some(&["xdg-open"]));
        check_browser(&[("WAYLAND_DISPLAY", "wayland-0"), ("BROWSER", "")], Some(&["xdg-open"]));
        check_browser(
            &[("DISPLAY", ":0"), ("BROWSER", "firefox -P work %s:w3m")],
            Some(&["firefox", "-P", "work", "%s"]),
        );
        check_browser(&[("DISPLAY", ":0"), ("BROWSER", " ")], None);
    }
}
