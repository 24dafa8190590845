//! What does a login show to Keystone?

use std::slice;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::protocol::v3_user;
use super::{ApplicationCredential, AuthError, Method, Passcode, Person, Place, Secret, Source, totp};
use crate::secret::Unreadable;

/// Keystone's name of the method whose secret is good once.
pub(super) const TOTP: &str = "totp";

/// One of the methods that a login names, with what Keystone wants to see for it.
#[derive(Debug)]
pub struct Factor {
    /// Keystone's name of the method: `password`.
    pub name: &'static str,
    /// The object of that name in the request's body, without the secret.
    pub proof: Value,
    /// Where the secret belongs in it: `/user/password`.
    pub place: &'static str,
    /// The secret.
    pub secret: Secret,
    /// How long until there is another secret, where that is known.
    pub next: Option<Duration>,
}

impl Method {
    /// What an Identity v3 login shows right now. `used` is the passcode of an earlier one, in whose place another is
    /// wanted.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`].
    pub(super) async fn factors(&self, used: Option<&Secret>) -> Result<Vec<Factor>, AuthError> {
        let shown = match self {
            Self::MultiFactor { shown, .. } => shown,
            one => slice::from_ref(one),
        };
        let mut factors = Vec::with_capacity(shown.len());
        for method in shown {
            factors.extend(method.factor(used).await?);
        }
        Ok(factors)
    }

    /// What it can show besides, if Keystone asks for it.
    pub(super) fn spare(&self) -> &[Self] {
        match self {
            Self::MultiFactor { spare, .. } => spare,
            _ => &[],
        }
    }

    /// What one method shows. Nothing where that is no part of a login's body, or several do.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`].
    pub(super) async fn factor(&self, used: Option<&Secret>) -> Result<Option<Factor>, AuthError> {
        let (proof, place, source) = match self {
            Self::Password { user, password } => {
                (json!({ "user": v3_user(user) }), "/user/password", password)
            }
            Self::Token(token) => (json!({}), "/id", token),
            Self::ApplicationCredential { which: ApplicationCredential::Id(id), secret }
            | Self::OAuth2 { client_id: id, client_secret: secret, .. } => {
                (json!({ "id": id }), "/secret", secret)
            }
            Self::ApplicationCredential { which: ApplicationCredential::Name { name, user }, secret } => {
                (json!({ "name": name, "user": v3_user(user) }), "/secret", secret)
            }
            Self::Totp { user, passcode } => {
                let (secret, next) = self::passcode(passcode, used).await?;
                let proof = json!({ "user": v3_user(user) });
                return Ok(Some(Factor { name: TOTP, proof, place: "/user/passcode", secret, next }));
            }
            Self::MultiFactor { .. }
            | Self::OAuth2Mtls { .. }
            | Self::OAuth1 { .. }
            | Self::Kerberos(_)
            | Self::Federated(_) => {
                return Ok(None);
            }
        };
        let secret = read(source).await?;
        Ok(Some(Factor { name: self.name(), proof, place, secret, next: None }))
    }

    /// Keystone's name of it; the first of several.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Password { .. } => "password",
            Self::Token(_) => "token",
            Self::ApplicationCredential { .. } | Self::OAuth2 { .. } => "application_credential",
            Self::Totp { .. } => TOTP,
            Self::MultiFactor { shown, .. } => shown.first().map_or("", Self::name),
            Self::OAuth2Mtls { .. } => "oauth2_credential",
            Self::Kerberos(_) => "kerberos",
            Self::OAuth1 { .. } => "oauth1",
            Self::Federated(_) => "mapped",
        }
    }

    /// Whether what it shows is good for one login only, so that a token has to do for the others.
    pub(super) fn is_one_time(&self) -> bool {
        match self {
            Self::MultiFactor { shown, spare } => shown.iter().chain(spare).any(Self::is_one_time),
            Self::Federated(federated) => federated.is_one_time(),
            one => matches!(one, Self::Totp { .. }),
        }
    }

    /// Whether it gives an unscoped token, with which all others are got.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Federated(_)) || self.is_one_time() && self.takes_scope()
    }

    /// The person without whom there is no login, if it needs one. What comes of that is a token for all others.
    pub fn person(&self) -> Option<&Person> {
        match self {
            Self::Totp { passcode: Passcode::Typed(person), .. } => Some(person),
            Self::MultiFactor { shown, spare } => shown.iter().chain(spare).find_map(Self::person),
            Self::Federated(federated) => federated.person(),
            _ => None,
        }
    }

    /// Says where the token of a person's login lies.
    pub fn set_place(&mut self, place: &Place) {
        match self {
            Self::Totp { passcode: Passcode::Typed(person), .. } => person.place = Some(place.clone()),
            Self::MultiFactor { shown, spare } => {
                shown.iter_mut().chain(spare).for_each(|method| method.set_place(place));
            }
            Self::Federated(federated) => federated.person.place = Some(place.clone()),
            _ => {}
        }
    }

    /// What tells a person's logins at one Keystone apart.
    pub(super) fn label(&self) -> Vec<String> {
        match self {
            Self::Federated(federated) => federated.label(),
            Self::MultiFactor { shown, spare } => shown.iter().chain(spare).flat_map(Self::label).collect(),
            Self::Password { user, .. } | Self::Totp { user, .. } => {
                vec![self.name().to_owned(), format!("{user:?}")]
            }
            other => vec![other.name().to_owned()],
        }
    }

    /// Whether its person types a passcode.
    pub fn wants_passcode(&self) -> bool {
        match self {
            Self::Totp { passcode, .. } => matches!(passcode, Passcode::Typed(_)),
            Self::MultiFactor { shown, spare } => shown.iter().chain(spare).any(Self::wants_passcode),
            Self::Federated(federated) => federated.wants_passcode(),
            _ => false,
        }
    }

    /// The same with the passcode that somebody typed.
    #[must_use]
    pub fn with_passcode(mut self, typed: &Secret) -> Self {
        match &mut self {
            Self::Totp { passcode: passcode @ Passcode::Typed(_), .. } => {
                *passcode = Passcode::Given(typed.clone().into());
            }
            Self::MultiFactor { shown, spare } => {
                for method in shown.iter_mut().chain(spare) {
                    *method = method.clone().with_passcode(typed);
                }
            }
            Self::Federated(federated) => federated.set_passcode(typed),
            _ => {}
        }
        self
    }

    /// Where its secrets come from.
    fn sources(&self) -> Vec<&Source> {
        if self.wants_passcode() {
            // They are shown when the person is there.
            return Vec::new();
        }
        match self {
            Self::Password { password: source, .. }
            | Self::Token(source)
            | Self::ApplicationCredential { secret: source, .. }
            | Self::OAuth2 { client_secret: source, .. } => vec![source],
            Self::OAuth1 { consumer_secret, access_secret, .. } => vec![consumer_secret, access_secret],
            Self::Totp { passcode, .. } => passcode.source().into_iter().collect(),
            Self::MultiFactor { shown, spare } => shown.iter().chain(spare).flat_map(Self::sources).collect(),
            Self::Federated(federated) => federated.sources(),
            // What there is of it is GSSAPI's.
            Self::OAuth2Mtls { .. } | Self::Kerberos(_) => Vec::new(),
        }
    }

    /// All its secrets, as they are now. Where those in `wrong` are known to be of no use, others are asked for.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`].
    pub(super) async fn secrets(&self, wrong: Option<&[Secret]>) -> Result<Vec<Secret>, AuthError> {
        let mut secrets = Vec::new();
        for (index, source) in self.sources().into_iter().enumerate() {
            let read = match wrong.and_then(|wrong| wrong.get(index)) {
                Some(wrong) => source.read_again(wrong).await,
                None => source.read().await,
            };
            secrets.push(read.map_err(no_secret)?);
        }
        Ok(secrets)
    }

    /// Whether one of its secrets is another now, as far as that is to be seen at no cost.
    pub(super) async fn has_changed(&self, known: &[Secret]) -> bool {
        for (source, known) in self.sources().into_iter().zip(known) {
            if source.has_changed(known).await {
                return true;
            }
        }
        false
    }

    /// Whether a login may say what its token should be good for.
    pub fn takes_scope(&self) -> bool {
        match self {
            Self::ApplicationCredential { .. }
            | Self::OAuth2 { .. }
            | Self::OAuth2Mtls { .. }
            | Self::OAuth1 { .. } => false,
            Self::MultiFactor { shown, .. } => shown.iter().all(Self::takes_scope),
            Self::Password { .. }
            | Self::Token(_)
            | Self::Totp { .. }
            | Self::Kerberos(_)
            | Self::Federated(_) => true,
        }
    }
}

impl Passcode {
    /// Where it comes from, or what it is computed from.
    pub(super) fn source(&self) -> Option<&Source> {
        match self {
            Self::Given(source) | Self::Computed(source) => Some(source),
            Self::Typed(_) => None,
        }
    }
}

/// A one-time passcode as it is now, and how long until there is another, where that is known.
///
/// # Errors
/// [`AuthError::NoSecret`].
pub(super) async fn passcode(
    passcode: &Passcode,
    used: Option<&Secret>,
) -> Result<(Secret, Option<Duration>), AuthError> {
    let source = match (passcode, used) {
        (Passcode::Given(source), None) => return Ok((read(source).await?, None)),
        (Passcode::Given(source), Some(used)) => {
            return Ok((source.read_again(used).await.map_err(no_secret)?, None));
        }
        (Passcode::Computed(source), _) => source,
        (Passcode::Typed(person), _) => {
            return Err(AuthError::LoginRequired { cloud: person.cloud.clone() });
        }
    };
    let now = SystemTime::now();
    let code = totp::code(&read(source).await?, now).ok_or_else(|| AuthError::NoSecret {
        why: "the TOTP secret is not in base32, as Keystone's credential of type totp has it".to_owned(),
    })?;
    Ok((code, Some(totp::until_next(now))))
}

/// A secret as it is now.
///
/// # Errors
/// [`AuthError::NoSecret`].
pub(super) async fn read(source: &Source) -> Result<Secret, AuthError> {
    source.read().await.map_err(no_secret)
}

fn no_secret(unreadable: Unreadable) -> AuthError {
    AuthError::NoSecret { why: unreadable.to_string() }
}
