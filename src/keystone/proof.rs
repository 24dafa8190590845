//! What does a login show to Keystone?

use serde_json::{Value, json};

use super::protocol::v3_user;
use super::{ApplicationCredential, AuthError, Method, Secret, Source};

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
}

impl Method {
    /// What an Identity v3 login shows right now.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`].
    pub(super) async fn factors(&self) -> Result<Vec<Factor>, AuthError> {
        let secret = self.secret().await?;
        let (name, proof, place) = match self {
            Self::Password { user, .. } => ("password", json!({ "user": v3_user(user) }), "/user/password"),
            Self::Token(_) => ("token", json!({}), "/id"),
            Self::ApplicationCredential { which: ApplicationCredential::Id(id), .. } => {
                ("application_credential", json!({ "id": id }), "/secret")
            }
            Self::ApplicationCredential { which: ApplicationCredential::Name { name, user }, .. } => {
                ("application_credential", json!({ "name": name, "user": v3_user(user) }), "/secret")
            }
        };
        Ok(vec![Factor { name, proof, place, secret }])
    }

    /// Where its secrets come from.
    fn sources(&self) -> Vec<&Source> {
        let (Self::Password { password: source, .. }
        | Self::Token(source)
        | Self::ApplicationCredential { secret: source, .. }) = self;
        vec![source]
    }

    /// The secret of it, as it is now.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`].
    pub(super) async fn secret(&self) -> Result<Secret, AuthError> {
        let mut secrets = self.secrets(None).await?;
        secrets.pop().ok_or_else(|| AuthError::NoSecret { why: "there is none".to_owned() })
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
            secrets.push(read.map_err(|unreadable| AuthError::NoSecret { why: unreadable.to_string() })?);
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
        !matches!(self, Self::ApplicationCredential { .. })
    }
}
