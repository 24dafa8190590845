//! What a token of keyway's stands for, and how that is written into it.

use crate::keystone::{Asked, Domain, Project, Scope};

/// The first byte of what is sealed, so that a later keyway can write it otherwise.
const FORM: u8 = 1;

/// How many methods are kept, and how long the name of one may be.
const METHODS: usize = 8;
const METHOD: usize = 32;

/// A login at the facade, as its token has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which token this is, for revocation and as its audit id. See [`super::random_id`].
    pub id: [u8; 16],
    /// The cloud's name, and what the token is good for: [`Scope::Default`] is the cloud's own scope, a
    /// project stands here by its id.
    pub key: (Box<str>, Scope),
    /// The identity, as [`super::Keys::vouch`] made it; none where anybody may log in.
    pub login: Option<Vouched>,
    /// How the client logged in: `password`, `token`, ... At most 8 names of at most 32 bytes are kept.
    pub methods: Vec<String>,
    /// When, UNIX seconds.
    pub issued_at: i64,
    /// Until when, UNIX seconds.
    pub expires_at: i64,
}

/// An identity that showed what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// Its name.
    pub name: String,
    /// Tells whether what was shown is still good: a hash of both, keyed with the sealing key.
    pub(super) proof: [u8; 16],
}

impl Session {
    /// The cloud's name.
    pub fn cloud(&self) -> &str {
        &self.key.0
    }

    /// Which of the cloud's tokens its requests carry.
    pub fn asked(&self) -> Asked {
        match &self.key.1 {
            Scope::Default => Asked::Own,
            scope => Asked::Exactly(scope.clone()),
        }
    }

    /// Everything but `issued_at`, which stands in the open.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORM];
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.expires_at.to_be_bytes());
        put(&mut out, &self.key.0);
        match &self.key.1 {
            Scope::Default => out.push(0),
            Scope::Unscoped => out.push(1),
            Scope::System => out.push(2),
            Scope::Trust(id) => {
                out.push(6);
                put(&mut out, id);
            }
            Scope::Domain(domain) => {
                out.push(3);
                put_domain(&mut out, domain);
            }
            Scope::Project(Project::Id(id)) => {
                out.push(4);
                put(&mut out, id);
            }
            Scope::Project(Project::Name { name, domain }) => {
                out.push(5);
                put(&mut out, name);
                out.push(u8::from(domain.is_some()));
                if let Some(domain) = domain {
                    put_domain(&mut out, domain);
                }
            }
        }
        out.push(u8::from(self.login.is_some()));
        if let Some(login) = &self.login {
            put(&mut out, &login.name);
            out.extend_from_slice(&login.proof);
        }
        let methods: Vec<_> =
            self.methods.iter().filter(|method| method.len() <= METHOD).take(METHODS).collect();
        out.push(u8::try_from(methods.len()).expect("at most 8"));
        methods.into_iter().for_each(|method| put(&mut out, method));
        out
    }

    /// What [`Session::encode`] wrote; `None` for anything else.
    pub(super) fn decode(bytes: &[u8], issued_at: i64) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.byte()? != FORM {
            return None;
        }
        let id = from.array()?;
        let expires_at = i64::from_be_bytes(from.array()?);
        let cloud = from.text()?.into();
        let scope = match from.byte()? {
            0 => Scope::Default,
            1 => Scope::Unscoped,
            2 => Scope::System,
            3 => Scope::Domain(from.domain()?),
            4 => Scope::Project(Project::Id(from.text()?)),
            5 => {
                let name = from.text()?;
                let domain = if from.flag()? { Some(from.domain()?) } else { None };
                Scope::Project(Project::Name { name, domain })
            }
            6 => Scope::Trust(from.text()?),
            _ => return None,
        };
        let login = match from.flag()? {
            true => Some(Vouched { name: from.text()?, proof: from.array()? }),
            false => None,
        };
        let count = usize::from(from.byte()?);
        let methods = (0..count.min(METHODS)).map(|_| from.text()).collect::<Option<Vec<_>>>()?;
        let whole = from.0.is_empty() && count <= METHODS;
        whole.then_some(Self { id, key: (cloud, scope), login, methods, issued_at, expires_at })
    }
}

/// A text with its length. What is longer than 64 KiB is cut, and so is no text that opens again: nothing
/// that Keystone or a configuration names comes near.
fn put(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn put_domain(out: &mut Vec<u8>, domain: &Domain) {
    let (by_name, text) = match domain {
        Domain::Id(id) => (0, id),
        Domain::Name(name) => (1, name),
    };
    out.push(by_name);
    put(out, text);
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        let length = u16::from_be_bytes(self.array()?);
        String::from_utf8(self.take(length.into())?.to_vec()).ok()
    }

    fn domain(&mut self) -> Option<Domain> {
        match self.flag()? {
            false => self.text().map(Domain::Id),
            true => self.text().map(Domain::Name),
        }
    }
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is none, or it is not shaped like a token of keyway's or Keystone's at all.
    #[error("it brings none")]
    NoToken,
    /// It was not sealed with any of our keys, or was changed since.
    #[error("this one is none of keyway's")]
    Foreign,
    /// It has ended.
    #[error("this one has expired")]
    Expired,
    /// It was revoked.
    #[error("this one was revoked")]
    Revoked,
    /// It is for another cloud than the path names.
    #[error("this one is for another cloud")]
    OtherCloud,
    /// What its identity showed for it is no longer good, or the identity is gone.
    #[error("the identity of this one was removed, or what it showed is no longer good")]
    LoginChanged,
    /// The identity may come in no more.
    #[error("its identity has expired")]
    IdentityExpired,
}

impl Unusable {
    /// All of them, so that each is counted from the start.
    pub const ALL: [Self; 7] = [
        Self::NoToken,
        Self::Foreign,
        Self::Expired,
        Self::Revoked,
        Self::OtherCloud,
        Self::LoginChanged,
        Self::IdentityExpired,
    ];

    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::OtherCloud => "other_cloud",
            Self::LoginChanged => "login_changed",
            Self::IdentityExpired => "identity_expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_or_has_more_is_no_session() {
        let session = Session {
            id: [7; 16],
            key: ("lab".into(), Scope::Project(Project::Id("p".to_owned()))),
            login: Some(Vouched { name: "ada".to_owned(), proof: [9; 16] }),
            methods: vec!["password".to_owned(), "x".repeat(33)],
            issued_at: 5,
            expires_at: 6,
        };
        let mut bytes = session.encode();
        let read = Session::decode(&bytes, 5).unwrap();
        assert_eq!(read, Session { methods: vec!["password".to_owned()], ..session });
        for length in 0..bytes.len() {
            assert_eq!(Session::decode(&bytes[..length], 5), None);
        }
        bytes.push(0);
        assert_eq!(Session::decode(&bytes, 5), None);
    }
}
