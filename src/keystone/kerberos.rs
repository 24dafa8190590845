//! How is a Kerberos ticket shown to Keystone?
//!
//! Apache (mod_auth_gssapi) stands before such a Keystone and wants `Authorization: Negotiate` (RFC 4559): a SPNEGO
//! token (RFC 4178) for the service HTTP at the host of `auth_url`. The system's GSSAPI library makes it of the ticket
//! in the process's credential cache (`KRB5CCNAME`), or of one that it gets itself with a client keytab
//! (`KRB5_CLIENT_KTNAME`); nothing of either is kept here, so a ticket that was renewed serves the next login. The
//! answer brings a token as well, by which the server shows that it is the one that the ticket was for.
//!
//! The library is there in builds with the feature `kerberos` only.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::AuthError;
use super::protocol::bad_reply;
use super::token::TokenId;

#[cfg(feature = "kerberos")]
use gssapi::Context;

/// What a build without Kerberos says of itself, and what to do.
pub const MISSING: &str = "needs Kerberos, which this keyway was built without; build one with `cargo build --release \
                           --features kerberos`, for which the system must have GSSAPI (Debian: libkrb5-dev) and libclang";

/// The scheme of RFC 4559.
const NEGOTIATE: &str = "Negotiate";

/// Whether the server has to show who it is, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MutualAuth {
    /// It has to.
    Required,
    /// What it shows must be right; it may show nothing.
    #[default]
    Optional,
    /// Nobody looks.
    Disabled,
}

impl MutualAuth {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Required, Self::Optional, Self::Disabled];

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::Disabled => "disabled",
        }
    }
}

/// Held by the one who asks the library, which can't be interrupted: however long a KDC takes, one thread waits for it.
pub(super) type Turn = Arc<Mutex<()>>;

/// One login: what was sent, and what the answer must fit.
pub(super) struct Negotiation {
    host: String,
    mutual: MutualAuth,
    context: Context,
}

impl Negotiation {
    /// Begins a login at a server. The header goes with the request.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`], also if there is no ticket by the end of `patience`.
    pub(super) async fn begin(
        host: &str,
        mutual: MutualAuth,
        turn: &Turn,
        patience: Duration,
    ) -> Result<(Self, HeaderValue), AuthError> {
        let begun = async {
            let turn = Arc::clone(turn).lock_owned().await;
            let host = host.to_owned();
            let begun = move || {
                let begun = Context::begin(&host, mutual);
                drop(turn);
                begun
            };
            tokio::task::spawn_blocking(begun).await.map_err(|_| AuthError::Stopped)?
        };
        let late = |_| no_ticket(host, &format!("there is none after {} s", patience.as_secs()), KDC);
        let (context, token) = tokio::time::timeout(patience, begun).await.map_err(late)??;
        let encoded = Zeroizing::new(STANDARD.encode(&*token));
        let header = TokenId::new(&encoded).map_err(|_| no_ticket(host, "it is empty", KDC))?;
        Ok((Self { host: host.to_owned(), mutual, context }, header.with_scheme(NEGOTIATE)))
    }

    /// Looks at what came back: whether the server is the one that the ticket was for.
    ///
    /// # Errors
    /// [`AuthError::BadReply`].
    pub(super) async fn check(self, headers: &HeaderMap) -> Result<(), AuthError> {
        let Self { host, mutual, context } = self;
        let unproven = |why: &str| {
            bad_reply(format!(
                "the answer to the Kerberos login does not show that it is the one of HTTP@{host}: {why}; is auth_url right? \
                 (mutual_auth is {})",
                mutual.as_str()
            ))
        };
        match (mutual, challenge(headers)) {
            (MutualAuth::Disabled, _) | (MutualAuth::Optional, None | Some("")) => Ok(()),
            (MutualAuth::Required, None | Some("")) => Err(unproven("there is no token in it")),
            (MutualAuth::Required | MutualAuth::Optional, Some(token)) => {
                let token = STANDARD.decode(token).map_err(|_| unproven("its token is not in base64"))?;
                let checked = tokio::task::spawn_blocking(move || context.check(&token));
                checked.await.map_err(|_| AuthError::Stopped)?.map_err(|why| unproven(&why))
            }
        }
    }
}

/// Whether the server wants to see a ticket, and has seen none that it accepts.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    challenge(headers) == Some("")
}

/// What follows the scheme `Negotiate`, which may be nothing; `None` where the scheme is not there.
fn challenge(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    // base64 has no comma, and what has some in quotes belongs to other schemes.
    let mut challenges = values.flat_map(|value| value.split(',')).map(str::trim);
    challenges.find_map(|challenge| {
        let (scheme, token) = challenge.split_once(' ').unwrap_or((challenge, ""));
        scheme.eq_ignore_ascii_case(NEGOTIATE).then(|| token.trim())
    })
}

/// What may help where there is no ticket at all, or one that is over.
#[cfg(feature = "kerberos")]
const KINIT: &str = "run `kinit` as the user that keyway runs as (KRB5CCNAME says where tickets lie), or start keyway with \
                     KRB5_CLIENT_KTNAME set to a client keytab";

/// What may help where the KDC gives none for this server.
const KDC: &str = "is the KDC up, and is the host of auth_url the name that it knows Keystone by?";

fn no_ticket(host: &str, why: &str, advice: &str) -> AuthError {
    AuthError::NoSecret { why: format!("no Kerberos ticket for HTTP@{host}: {why}; {advice}") }
}

/// The library, as far as it is needed. Everything here may block.
#[cfg(feature = "kerberos")]
mod gssapi {
    use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext};
    use libgssapi::credential::{Cred, CredUsage};
    use libgssapi::error::Error;
    use libgssapi::name::Name;
    use libgssapi::oid::{GSS_MECH_KRB5, GSS_MECH_SPNEGO, GSS_NT_HOSTBASED_SERVICE, OidSet};
    use libgssapi::util::Buf;

    use super::{AuthError, KDC, KINIT, MutualAuth, no_ticket};

    /// The longest word of the library's that is shown, characters.
    const LONGEST_WORD: usize = 300;

    pub(super) struct Context(ClientCtx);

    impl Context {
        pub(super) fn begin(host: &str, mutual: MutualAuth) -> Result<(Self, Buf), AuthError> {
            // SPNEGO says little about a ticket that is not there or over; Kerberos itself says it.
            has_ticket().map_err(|error| no_ticket(host, &said(&error), KINIT))?;
            let refused = |error: Error| no_ticket(host, &said(&error), KDC);
            let service = format!("HTTP@{host}");
            let service = Name::new(service.as_bytes(), Some(GSS_NT_HOSTBASED_SERVICE)).map_err(refused)?;
            let mut flags = CtxFlags::GSS_C_REPLAY_FLAG;
            flags.set(CtxFlags::GSS_C_MUTUAL_FLAG, mutual != MutualAuth::Disabled);
            let mut context = ClientCtx::new(None, service, flags, Some(GSS_MECH_SPNEGO));
            let token = context.step(None, None).map_err(refused)?;
            let token = token.ok_or_else(|| no_ticket(host, "nothing came of it", KDC))?;
            Ok((Self(context), token))
        }

        pub(super) fn check(mut self, token: &[u8]) -> Result<(), String> {
            self.0.step(Some(token), None).map_err(|error| said(&error))?;
            if self.0.is_complete() { Ok(()) } else { Err("its token is only half of one".to_owned()) }
        }
    }

    fn has_ticket() -> Result<(), Error> {
        let mut kerberos = OidSet::new();
        kerberos.add(GSS_MECH_KRB5)?;
        Cred::acquire(None, None, CredUsage::Initiate, Some(&kerberos))?.info().map(drop)
    }

    /// What the library says, which names files and principals, on one line. It knows more than the standard's words
    /// in the thread that the error is from.
    fn said(error: &Error) -> String {
        let text = error.to_string();
        // The standard's words, and in parentheses the mechanism's, if it has some.
        let (general, special) = text.split_once(" (").unwrap_or((&text, ""));
        let special = special.strip_suffix(')').unwrap_or(special).trim();
        let word = if ["", "Success", "Unknown error"].contains(&special) { general } else { special };
        word.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_WORD).collect()
    }
}

/// A build without the library never gets here: its configuration has no such login.
#[cfg(not(feature = "kerberos"))]
enum Context {}

#[cfg(not(feature = "kerberos"))]
impl Context {
    fn begin(host: &str, _: MutualAuth) -> Result<(Self, Zeroizing<Vec<u8>>), AuthError> {
        Err(AuthError::NoSecret { why: format!("HTTP@{host} {MISSING}") })
    }

    fn check(self, _: &[u8]) -> Result<(), String> {
        match self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_challenge(values: &[&'static str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        assert_eq!(challenge(&headers), expected, "{values:?}");
        assert_eq!(is_wanted(&headers), expected == Some(""), "{values:?}");
    }

    #[test]
    fn a_challenge_is_found_among_others() {
        check_challenge(&[], None);
        check_challenge(&["Negotiate"], Some(""));
        check_challenge(&["negotiate oYG3MIG0="], Some("oYG3MIG0="));
        check_challenge(&["Keystone uri=\"http://localhost:5000/v3\"", "NEGOTIATE  oYG3 "], Some("oYG3"));
        check_challenge(&["Basic realm=\"a, b\", Negotiate"], Some(""));
        check_challenge(&["Negotiate, Basic realm=\"a\""], Some(""));
        check_challenge(&["Negotiated abc", "Bearer Negotiate"], None);
    }
}
