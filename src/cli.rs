//! The command line. Secrets never come from it: other users can see it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::Overrides;

const EXAMPLES: &str = "\
Examples:
  keyway                             serve the cloud of OS_CLOUD, of OS_*, or the only one in clouds.yaml
  keyway --cloud prod --cloud lab    serve two clouds of clouds.yaml; prod is the default one
  curl localhost:8180/compute/servers
  keyway check --cloud prod          log in and see what is there, without serving
  eval \"$(keyway env)\"               point the OpenStack clients in this shell at keyway
  keyway run -- openstack server list    run one command with a keyway of its own
  keyway demo                        try it without a cloud

A flag wins over its KEYWAY_* variable, that over keyway.toml, that over the default.
Passwords come from OS_* variables, clouds.yaml or secure.yaml, never from the command line.
Exit codes: 0 fine, 1 could not start, 2 wrong usage or configuration; `run` ends with its command's.";

/// An auth-caching reverse proxy for OpenStack: plain curl in, Keystone token added, answer streamed back.
#[derive(Clone, Debug, Parser)]
#[command(name = "keyway", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub options: Options,
    /// What to do; nothing means `serve`.
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags, before or after the command.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Configuration file [env: KEYWAY_CONFIG] [default: ~/.config/keyway/keyway.toml, then
    /// /etc/keyway/keyway.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A cloud of clouds.yaml (`envvars` is the one of OS_*); repeat it for several, the default one
    /// first [env: KEYWAY_CLOUDS=A,B]
    #[arg(long = "cloud", global = true, value_name = "NAME")]
    clouds: Vec<String>,

    /// Where to serve the services: ADDRESS:PORT on loopback, or unix:/path [env: KEYWAY_LISTEN]
    /// [default: 127.0.0.1:8180]
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,

    /// Where to serve metrics, health and status, in the same form [env: KEYWAY_ADMIN]
    /// [default: 127.0.0.1:8181]
    #[arg(long, global = true, value_name = "ADDRESS")]
    admin: Option<String>,

    /// Serve each service on its conventional port as well (compute on 8774, ...), or those of a list of
    /// services: --emulate-ports=identity,compute [env: KEYWAY_EMULATE_PORTS]
    #[arg(long, global = true, value_name = "SERVICES", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    emulate_ports: Option<String>,

    /// Keep the clouds' tokens on disk, sealed, so that a restart and `keyway token` need no login; in the
    /// state directory, or in this one: --tokens-cache=DIR [env: KEYWAY_TOKENS_CACHE] [default: false]
    #[arg(long, global = true, value_name = "DIR", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    tokens_cache: Option<String>,

    /// Worker threads [env: KEYWAY_WORKERS] [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    workers: Option<String>,

    /// How a log line looks; auto is text on a terminal, else json [env: KEYWAY_LOG_FORMAT] [default: auto]
    #[arg(long, global = true, value_name = "FORMAT", value_parser = ["auto", "text", "json"])]
    log_format: Option<String>,

    /// What to log: error, warn, info, debug, trace, or a filter such as info,keyway::keystone=debug
    /// [env: KEYWAY_LOG_LEVEL] [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve the clouds (this is also what happens without a command)
    #[default]
    Serve,
    /// Start a simulated cloud on this machine, with keyway in front of it
    Demo,
    /// Say whether the configuration is right (before a reload, too), log in, and list the services and
    /// whether they answer
    Check,
    /// List each service with its local and its upstream URL
    Routes,
    /// Print the current token, for a script that insists on having it
    Token,
    /// Log in to the clouds whose login needs a person (a browser, a code), once; a running keyway finds it
    Login {
        /// Only print the address; else a browser opens where there is a display ($BROWSER, xdg-open)
        #[arg(long)]
        no_browser: bool,
    },
    /// Forget the logins of people, and have Keystone revoke them
    Logout,
    /// Say of each cloud whether it needs a person's login, whether there is one, and when it ends
    Status,
    /// Make, list and revoke API keys: what an identity shows instead of a password
    #[command(subcommand)]
    Key(KeyCommand),
    /// Ask the keyway that runs here whether it lives, at its admin listener: exit code 0 if it does
    Health {
        /// Whether it is ready to serve, too: it has a token, and was not told to stop
        #[arg(long)]
        ready: bool,
    },
    /// Say who may come in, and what each of them may do
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Print what points an OpenStack client at keyway: OS_* lines for a shell
    Env {
        /// A clouds.yaml instead
        #[arg(long)]
        clouds_yaml: bool,
    },
    /// Run one command with a keyway of its own, at a port and with a password that nobody else knows
    Run {
        /// The command and its arguments, behind `--`
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
}

/// What to do with API keys.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum KeyCommand {
    /// Make a key for an identity and print it, which nobody can do again: what is kept is a hash
    New {
        /// The identity, as in [identity.NAME]
        name: String,
        /// When it ends: 90d, 2027-01-31 or 2027-01-31T18:00:00Z; without it, when it is revoked
        #[arg(long, value_name = "WHEN", value_parser = crate::commands::keys::ends)]
        expires: Option<jiff::Timestamp>,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
    },
    /// List the keys, without what they are
    List {
        /// Of this identity only
        name: Option<String>,
    },
    /// Take a key away
    Revoke {
        /// The 16 digits that name it
        id: String,
    },
}

/// What to say of identities.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum IdentityCommand {
    /// List them: what each may show, its keys and their ends, its rights in short
    List,
    /// Say all about one of them, but its secrets
    Show {
        /// The identity, as in [identity.NAME]
        name: String,
    },
    /// Say what would become of a request of it, which is not sent: `allowed` and where it would go (exit code 0), or
    /// `denied` and by which rule (1)
    Test {
        /// The identity, as in [identity.NAME]
        name: String,
        /// The request's method
        method: http::Method,
        /// Its path at the listener: /compute/servers
        path: String,
        /// The listener by which it comes
        #[arg(long, value_name = "NAME", default_value = "main")]
        by: String,
    },
}

impl Cli {
    /// Reads the command line. Wrong usage ends the process with exit code 2.
    pub fn read() -> Self {
        let cli = Self::parse();
        if let Err(error) = cli.check() {
            error.exit();
        }
        cli
    }

    /// Checks what concerns several arguments.
    fn check(&self) -> Result<(), clap::Error> {
        let Options { listen, admin, emulate_ports, .. } = &self.options;
        let places = [listen, admin, emulate_ports];
        if matches!(self.command, Some(Command::Run { .. })) && places.iter().any(|place| place.is_some()) {
            let message = "`run` listens at ports of its own, which nobody else needs to know: leave out \
                           --listen, --admin and --emulate-ports";
            return Err(Self::command_line().error(ErrorKind::ArgumentConflict, message));
        }
        Ok(())
    }

    fn command_line() -> clap::Command {
        <Self as CommandFactory>::command()
    }

    /// Whether a flag names a cloud.
    pub fn names_clouds(&self) -> bool {
        !self.options.clouds.is_empty()
    }

    /// Whether a flag says what to log.
    pub fn sets_log_level(&self) -> bool {
        self.options.log_level.is_some()
    }

    /// What to do.
    pub fn command(&self) -> Command {
        self.command.clone().unwrap_or_default()
    }

    /// What the flags say about the configuration.
    pub fn overrides(&self) -> Overrides {
        let options = self.options.clone();
        Overrides {
            config: options.config,
            clouds: options.clouds,
            listen: options.listen,
            admin: options.admin,
            emulate_ports: options.emulate_ports,
            tokens_cache: options.tokens_cache,
            workers: options.workers,
            log_format: options.log_format,
            log_level: options.log_level,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let cli = Cli::try_parse_from(line.split_whitespace())?;
        cli.check().map(|()| cli)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command_line().debug_assert();
    }

    #[test]
    fn no_command_is_serve() {
        assert_eq!(parse("keyway").unwrap().command(), Command::Serve);
        assert_eq!(parse("keyway serve").unwrap().command(), Command::Serve);
        assert_eq!(parse("keyway --listen 127.0.0.1:1").unwrap().command(), Command::Serve);
    }

    #[test]
    fn flags_stand_before_or_after_the_command() {
        let expected = Overrides {
            config: Some(PathBuf::from("k.toml")),
            clouds: vec!["prod".to_owned(), "lab".to_owned()],
            listen: Some("127.0.0.1:1".to_owned()),
            admin: Some("127.0.0.1:2".to_owned()),
            emulate_ports: Some("compute,image".to_owned()),
            tokens_cache: Some("/t".to_owned()),
            workers: Some("3".to_owned()),
            log_format: Some("json".to_owned()),
            log_level: Some("debug".to_owned()),
        };
        let flags = "--config k.toml --cloud prod --cloud lab --listen 127.0.0.1:1 --admin 127.0.0.1:2 \
                     --emulate-ports=compute,image --tokens-cache=/t --workers 3 --log-format json --log-level debug";
        for line in
            [format!("keyway {flags}"), format!("keyway {flags} check"), format!("keyway check {flags}")]
        {
            assert_eq!(parse(&line).expect(&line).overrides(), expected, "{line}");
        }
    }

    #[test]
    fn ports_are_all_or_those_of_a_list() {
        let ports = |line: &str| parse(line).expect(line).overrides().emulate_ports;
        assert_eq!(ports("keyway"), None);
        assert_eq!(ports("keyway --emulate-ports").as_deref(), Some("true"));
        assert_eq!(ports("keyway --emulate-ports demo").as_deref(), Some("true"));
        assert_eq!(ports("keyway serve --emulate-ports=compute").as_deref(), Some("compute"));
    }

    #[test]
    fn commands_are_told_apart() {
        for (line, command) in [
            ("demo", Command::Demo),
            ("check", Command::Check),
            ("routes", Command::Routes),
            ("token", Command::Token),
            ("env", Command::Env { clouds_yaml: false }),
            ("identity list", Command::Identity(IdentityCommand::List)),
            ("identity show ada", Command::Identity(IdentityCommand::Show { name: "ada".to_owned() })),
            (
                "identity test ada GET /compute/servers --by team",
                Command::Identity(IdentityCommand::Test {
                    name: "ada".to_owned(),
                    method: http::Method::GET,
                    path: "/compute/servers".to_owned(),
                    by: "team".to_owned(),
                }),
            ),
            ("env --clouds-yaml", Command::Env { clouds_yaml: true }),
            ("run -- env", Command::Run { command: vec!["env".into()] }),
            (
                "run --cloud lab -- ls --cloud x -- y",
                Command::Run { command: ["ls", "--cloud", "x", "--", "y"].map(OsString::from).into() },
            ),
        ] {
            assert_eq!(parse(&format!("keyway {line}")).expect(line).command(), command);
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            "srve",
            "--clod x",
            "--password x",
            "--log-format xml",
            "--cloud",
            "serve now",
            "run",
            "run --",
            "run ls",
            "run --listen 127.0.0.1:1 -- ls",
            "--admin 127.0.0.1:1 run -- ls",
            "run --emulate-ports -- ls",
            "identity",
            "identity test ada GET",
            "identity test ada G(T /compute",
        ] {
            assert_eq!(parse(&format!("keyway {line}")).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    // Promise 15.
    #[test]
    fn no_flag_takes_a_secret_and_no_value_stands_alone() {
        let command = Cli::command_line();
        let commands = std::iter::once(&command).chain(command.get_subcommands());
        let mut flags: Vec<_> =
            commands.flat_map(clap::Command::get_arguments).map(|a| a.get_id().as_str()).collect();
        flags.sort_unstable();
        flags.dedup();
        // Each of them is looked at by whoever changes this list: other users see the command line.
        let known = [
            "admin",
            "clouds",
            "clouds_yaml",
            "command",
            "config",
            "emulate_ports",
            "listen",
            "log_format",
            "log_level",
            "no_browser",
            "ready",
            "tokens_cache",
            "workers",
        ];
        assert_eq!(flags, known);
        for flag in ["password", "os-password", "token", "os-token", "secret", "passcode", "key"] {
            assert!(parse(&format!("keyway --{flag} x")).is_err(), "{flag}");
            assert!(parse(&format!("keyway --{flag}=x")).is_err(), "{flag}");
        }
    }

    #[test]
    fn help_shows_examples_and_every_variable() {
        let error = parse("keyway --help").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
        let help = error.to_string();
        for word in ["keyway demo", "KEYWAY_CONFIG", "KEYWAY_CLOUDS", "KEYWAY_LISTEN", "KEYWAY_LOG_LEVEL"] {
            assert!(help.contains(word), "{word}: {help}");
        }
    }
}
