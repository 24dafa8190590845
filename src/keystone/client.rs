//! How does one log in?
//!
//! [`Client`] speaks to one cloud's Keystone: it finds out which Identity API there is, logs in with
//! the cloud's credentials, and checks tokens. Each call is one attempt with one deadline; when to
//! try again, and for whom, is [`TokenCache`](super::TokenCache)'s business. Scheme and host are
//! always those of `auth_url`, whatever a document says; a redirect is followed for a version document
//! and nothing else, and to no other host: nothing but the operator's word decides who gets the
//! password.

mod federated;
mod person;
mod saml;
mod version;

pub use self::person::Tell;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;

use self::version::{Api, ApiVersion};
use super::kerberos::{self, Negotiation};
use super::oauth1::Signer;
use super::proof::{self, TOTP};
use super::protocol::{self, ProjectInfo, Receipt, Sent};
use super::{
    AuthError, Factor, Identity, LoginId, Method as Credentials, MutualAuth, Project, Scope, Secret, Token,
    TokenId, token,
};
use crate::private;
use crate::upstream::{self, BaseUrl, Origin};

/// The longest answer that is read: a catalog with many regions can take a MiB.
const LONGEST_ANSWER: usize = 8 << 20;

/// One cloud's Keystone. A clone shares what was found out.
#[derive(Clone)]
pub struct Client {
    http: Transport,
    identity: Arc<Identity>,
    deadline: Duration,
    found: Arc<Mutex<Option<Api>>>,
    /// The one-time passcode that was shown last.
    used: Arc<Mutex<Option<Secret>>>,
    /// The unscoped token that stands for the login where its passcode was good once. Held by the one who
    /// gets the next.
    kept: Arc<tokio::sync::Mutex<Option<Token>>>,
    turn: kerberos::Turn,
}

/// How a request gets to Keystone.
#[derive(Clone)]
enum Transport {
    Network(upstream::Client),
    /// A test answers by itself.
    #[cfg(test)]
    Scripted(Arc<Script>),
}

#[cfg(test)]
type Script = dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync;

/// An unscoped token that stands for a login.
struct Unscoped {
    id: TokenId,
    /// The person's login, if it took one.
    login: Option<LoginId>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("auth_url", &self.identity.auth_url).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for one cloud. `deadline` bounds each call as a whole.
    pub fn new(http: upstream::Client, identity: Identity, deadline: Duration) -> Self {
        Self::with_transport(Transport::Network(http), identity, deadline)
    }

    fn with_transport(http: Transport, identity: Identity, deadline: Duration) -> Self {
        let (found, used, kept, turn) = Default::default();
        Self { http, identity: Arc::new(identity), deadline, found, used, kept, turn }
    }

    /// With what it logs in.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Logs in with the cloud's credentials for `scope`, which is the cloud's own one or that of
    /// another project.
    ///
    /// # Errors
    /// See [`AuthError`]. A scope that leads to no catalog is an error, unless
    /// [`Scope::Unscoped`] asked for it.
    pub async fn authenticate(&self, scope: &Scope) -> Result<Token, AuthError> {
        self.within_deadline(async {
            let api = self.api().await?;
            match api.version {
                ApiVersion::V3 => self.log_in_v3(&api, scope).await,
                ApiVersion::V2 => self.log_in_v2(&api, scope).await,
            }
        })
        .await
    }

    /// Asks Keystone whether a token is still good.
    ///
    /// # Errors
    /// [`AuthError`] when Keystone gives no clear answer.
    pub async fn validate(&self, token: &TokenId) -> Result<bool, AuthError> {
        self.within_deadline(async {
            let api = self.api().await?;
            let answer = match api.version {
                ApiVersion::V3 => self.ask_about(Method::HEAD, &api, token).await?,
                // Looking at a token takes an administrator there, listing one's tenants does not.
                ApiVersion::V2 => self.get(&api.base, "/tenants", token).await?,
            };
            match answer.status() {
                StatusCode::OK | StatusCode::NO_CONTENT => Ok(true),
                // The token vouches for itself, so a bad one is never 404: that is somebody else's answer.
                StatusCode::UNAUTHORIZED => Ok(false),
                _ => Err(protocol::refusal(&answer, "the check of a token", &[token.expose()])),
            }
        })
        .await
    }

    /// Lists the projects that the token's user may log in to, disabled ones included.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn projects(&self, token: &TokenId) -> Result<Vec<ProjectInfo>, AuthError> {
        self.within_deadline(async {
            let api = self.api().await?;
            self.list_projects(&api, token).await
        })
        .await
    }

    async fn log_in_v3(&self, api: &Api, scope: &Scope) -> Result<Token, AuthError> {
        let token = match &self.identity.method {
            Credentials::OAuth2Mtls { endpoint, client_id } => {
                self.log_in_by_certificate(api, endpoint, client_id).await?
            }
            Credentials::OAuth2 { endpoint, client_id, .. } => {
                let factors = self.factors().await?;
                let secret = factors.first().map(|factor| factor.secret.clone());
                let token = self.present(api, factors, None).await?;
                let (access, life) = self.access_token(endpoint, client_id, secret.as_ref()).await?;
                token.with_bearer(access, life)
            }
            Credentials::Kerberos(mutual) => self.log_in_by_ticket(api, scope, *mutual).await?,
            Credentials::OAuth1 { consumer_key, consumer_secret, access_key, access_secret } => {
                let consumer_secret = proof::read(consumer_secret).await?;
                let access_secret = proof::read(access_secret).await?;
                let signer = Signer {
                    consumer_key,
                    consumer_secret: &consumer_secret,
                    access_key,
                    access_secret: &access_secret,
                };
                self.log_in_signed(api, &signer).await?
            }
            method if method.is_kept() => self.log_in_once(api, scope).await?,
            method => {
                let scope = Some(scope).filter(|_| method.takes_scope());
                self.present(api, self.factors().await?, scope).await?
            }
        };
        if *scope == Scope::Default && token.catalog.is_empty() && token.project.is_none() {
            let projects = self.list_projects(api, &token.id).await.unwrap_or_default();
            return Err(AuthError::NoCatalog { projects: enabled_names(&projects) });
        }
        Ok(token)
    }

    /// Logs in by a signature.
    async fn log_in_signed(&self, api: &Api, signer: &Signer<'_>) -> Result<Token, AuthError> {
        let mut request =
            request(Method::POST, &api.base, "/auth/tokens", protocol::v3_login_by_header("oauth1", None));
        let url = format!("{}{}", api.base.origin(), request.uri().path());
        let sent = now();
        let timestamp = sent.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let signed = signer.authorization("POST", &url, private::random(), timestamp);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, signed);
        let answer = self.send(&api.base, request).await?;
        if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
            let secrets = [signer.consumer_secret.expose(), signer.access_secret.expose()];
            return Err(protocol::refusal(&answer, protocol::LOGIN, &secrets));
        }
        protocol::read_v3_token(&answer, sent)
    }

    /// Shows what a login begins with, and more of what it has as long as Keystone asks for that with a receipt.
    async fn present(
        &self,
        api: &Api,
        mut factors: Vec<Factor>,
        scope: Option<&Scope>,
    ) -> Result<Token, AuthError> {
        let mut spare: Vec<_> = self.identity.method.spare().iter().collect();
        let mut receipt: Option<Receipt> = None;
        loop {
            let (answer, sent) = self.show(api, &factors, scope, receipt.as_ref()).await?;
            if matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
                return protocol::read_v3_token(&answer, sent);
            }
            let unauthorized = answer.status() == StatusCode::UNAUTHORIZED;
            let Some(next) = Receipt::read(&answer).filter(|_| unauthorized) else {
                let mut secrets: Vec<_> = factors.iter().map(|factor| factor.secret.expose()).collect();
                secrets.extend(receipt.as_ref().map(|receipt| receipt.id.expose()));
                return Err(protocol::refusal(&answer, protocol::LOGIN, &secrets));
            };
            let available: Vec<_> = spare.iter().map(|method| method.name()).collect();
            let wanted = next.choose(&available).ok_or_else(|| next.unmet())?;
            // None is shown twice, so this comes to an end.
            let (wanted, rest): (Vec<_>, Vec<_>) =
                spare.into_iter().partition(|method| wanted.contains(&method.name()));
            spare = rest;
            factors.clear();
            for method in wanted {
                let used = self.used();
                factors.extend(method.factor(used.as_ref()).await?);
            }
            receipt = Some(next);
        }
    }

    /// What a login shows right now.
    async fn factors(&self) -> Result<Vec<Factor>, AuthError> {
        let used = self.used();
        self.identity.method.factors(used.as_ref()).await
    }

    /// The passcode that was shown last.
    fn used(&self) -> Option<Secret> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Posts one login.
    async fn show(
        &self,
        api: &Api,
        factors: &[Factor],
        scope: Option<&Scope>,
        receipt: Option<&Receipt>,
    ) -> Result<(Response<Bytes>, Sent), AuthError> {
        let passcode = factors.iter().find(|factor| factor.name == TOTP);
        if let Some(passcode) = passcode
            && self.was_used(&passcode.secret)
        {
            return Err(AuthError::PasscodeUsed { wait: passcode.next });
        }
        let mut request =
            request(Method::POST, &api.base, "/auth/tokens", protocol::v3_login(factors, scope));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(receipt) = receipt {
            request.headers_mut().insert(&protocol::AUTH_RECEIPT, receipt.id.header().clone());
        }
        let sent = now();
        let answer = self.send(&api.base, request).await?;
        if let Some(passcode) = passcode {
            // Whatever came of it: a code that was wrong is not right the second time.
            self.note_used(passcode.secret.clone());
        }
        Ok((answer, sent))
    }

    fn was_used(&self, passcode: &Secret) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(passcode)
    }

    fn note_used(&self, passcode: Secret) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(passcode);
    }

    /// Logs in for an unscoped token, and gets all others with that as long as it serves: what was shown for it is
    /// good only once, or cost more than Keystone's time, and there may be many projects.
    async fn log_in_once(&self, api: &Api, scope: &Scope) -> Result<Token, AuthError> {
        let kept = self.unscoped(api, None).await?;
        let token = self.rescope(api, &kept, scope).await;
        // Keystone says much the same to a token that is over and to a scope that is not the user's.
        if matches!(&token, Err(AuthError::Rejected { .. } | AuthError::BadReply { .. }))
            && self.ask_about(Method::HEAD, api, &kept.id).await?.status() == StatusCode::UNAUTHORIZED
        {
            let next = self.unscoped(api, Some(&kept.id)).await?;
            return self.rescope(api, &next, scope).await;
        }
        token
    }

    /// The kept token, or a new one in its place.
    async fn unscoped(&self, api: &Api, refused: Option<&TokenId>) -> Result<Unscoped, AuthError> {
        if let Some(person) = self.identity.method.person() {
            let kept = self.left_behind(api, person, refused).await?;
            return Ok(Unscoped { id: kept.token, login: Some(kept.login) });
        }
        let mut kept = self.kept.lock().await;
        // What it is exchanged for ends with it. Another identity provider's time is worth more than that.
        let unused = if matches!(self.identity.method, Credentials::Federated(_)) { 5 } else { 2 };
        let now = tokio::time::Instant::now().into_std();
        let is_good = |token: &&Token| {
            refused != Some(&token.id)
                && token.life_left(now).is_some_and(|left| left > token.lifetime() / unused)
        };
        if let Some(token) = kept.as_ref().filter(is_good) {
            return Ok(Unscoped { id: token.id.clone(), login: None });
        }
        let token = match &self.identity.method {
            Credentials::Federated(federated) => self.log_in_federated(api, federated).await?,
            _ => self.present(api, self.factors().await?, Some(&Scope::Unscoped)).await?,
        };
        Ok(Unscoped { id: kept.insert(token).id.clone(), login: None })
    }

    /// Exchanges a token for one with this scope.
    async fn rescope(&self, api: &Api, unscoped: &Unscoped, scope: &Scope) -> Result<Token, AuthError> {
        let secret = Secret::new(unscoped.id.expose());
        let factor = Factor { name: "token", proof: json!({}), place: "/id", secret, next: None };
        let (answer, sent) = self.show(api, &[factor], Some(scope), None).await?;
        if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
            return Err(protocol::refusal(&answer, protocol::LOGIN, &[unscoped.id.expose()]));
        }
        let mut token = protocol::read_v3_token(&answer, sent)?;
        token.login = unscoped.login;
        Ok(token)
    }

    /// Gets an access token from an OAuth 2.0 server, which knows the client by its secret or by its certificate.
    async fn access_token(
        &self,
        endpoint: &BaseUrl,
        client_id: &str,
        secret: Option<&Secret>,
    ) -> Result<(TokenId, Option<Duration>), AuthError> {
        let form = protocol::access_token_form(Some(client_id).filter(|_| secret.is_none()));
        let mut request = request(Method::POST, endpoint, "", form);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(secret) = secret {
            headers.insert(AUTHORIZATION, token::basic(client_id, secret).1);
        }
        let answer = self.send(endpoint, request).await?;
        if answer.status() != StatusCode::OK {
            let secrets: Vec<_> = secret.map(Secret::expose).into_iter().collect();
            return Err(protocol::refusal(&answer, "the request for an access token", &secrets));
        }
        protocol::read_access_token(&answer)
    }

    /// The access token of a client with a certificate is a token too; Keystone is asked what it is good for.
    async fn log_in_by_certificate(
        &self,
        api: &Api,
        endpoint: &BaseUrl,
        client_id: &str,
    ) -> Result<Token, AuthError> {
        let (access, life) = self.access_token(endpoint, client_id, None).await?;
        let sent = now();
        let answer = self.ask_about(Method::GET, api, &access).await?;
        if answer.status() != StatusCode::OK {
            return Err(protocol::refusal(
                &answer,
                "the question what its access token is good for",
                &[access.expose()],
            ));
        }
        Ok(protocol::read_v3_document(&answer, Some(access.clone()), sent)?.with_bearer(access, life))
    }

    /// Logs in by a Kerberos ticket, which is in the header; the body only says so.
    async fn log_in_by_ticket(
        &self,
        api: &Api,
        scope: &Scope,
        mutual: MutualAuth,
    ) -> Result<Token, AuthError> {
        let body = protocol::v3_login_by_header("kerberos", Some(scope));
        let mut request = request(Method::POST, &api.base, "/auth/tokens", body);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = now();
        let answer = self.send_with_ticket(&api.base, request, mutual).await?;
        if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
            return Err(protocol::refusal(&answer, protocol::LOGIN, &[]));
        }
        protocol::read_v3_token(&answer, sent)
    }

    /// Asks Keystone about a token, which vouches for itself.
    async fn ask_about(
        &self,
        method: Method,
        api: &Api,
        token: &TokenId,
    ) -> Result<Response<Bytes>, AuthError> {
        let mut request = request(method, &api.base, "/auth/tokens", Bytes::new());
        let headers = request.headers_mut();
        headers.insert("x-auth-token", token.header().clone());
        headers.insert("x-subject-token", token.header().clone());
        self.send(&api.base, request).await
    }

    async fn log_in_v2(&self, api: &Api, scope: &Scope) -> Result<Token, AuthError> {
        let token = self.log_in_v2_once(api, scope).await?;
        if *scope != Scope::Default || token.project.is_some() {
            return Ok(token);
        }
        let mut tenants = self.list_projects(api, &token.id).await?;
        tenants.retain(|tenant| tenant.enabled);
        match &tenants[..] {
            [] => Err(AuthError::NoTenant),
            [only] => {
                let scope = Scope::Project(Project::Id(only.project.id.clone()));
                self.log_in_v2_once(api, &scope).await
            }
            several => Err(AuthError::ManyTenants { tenants: enabled_names(several) }),
        }
    }

    async fn log_in_v2_once(&self, api: &Api, scope: &Scope) -> Result<Token, AuthError> {
        // The operator may have written down a domain that this API has no word for; a client means it.
        if *scope != self.identity.scope && protocol::scope_names_a_domain(scope) {
            return Err(AuthError::NotInV2 { what: "domains beside the default one" });
        }
        let factors = self.factors().await?;
        let Some(Factor { secret, .. }) = factors.first() else {
            return Err(AuthError::NotInV2 { what: "login without a secret" });
        };
        let body = protocol::v2_login(&self.identity.method, secret, scope)?;
        let mut request = request(Method::POST, &api.base, "/tokens", body);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = now();
        let answer = self.send(&api.base, request).await?;
        if answer.status() != StatusCode::OK {
            return Err(protocol::refusal(&answer, protocol::LOGIN, &[secret.expose()]));
        }
        protocol::read_v2_token(&answer, sent)
    }

    async fn list_projects(&self, api: &Api, token: &TokenId) -> Result<Vec<ProjectInfo>, AuthError> {
        let path = match api.version {
            ApiVersion::V3 => "/auth/projects",
            ApiVersion::V2 => "/tenants",
        };
        let answer = self.get(&api.base, path, token).await?;
        if answer.status() != StatusCode::OK {
            return Err(protocol::refusal(&answer, "the list of projects", &[token.expose()]));
        }
        protocol::read_projects(&answer)
    }

    async fn get(&self, base: &BaseUrl, path: &str, token: &TokenId) -> Result<Response<Bytes>, AuthError> {
        let mut request = request(Method::GET, base, path, Bytes::new());
        request.headers_mut().insert("x-auth-token", token.header().clone());
        self.send(base, request).await
    }

    async fn send(&self, base: &BaseUrl, request: Request<Bytes>) -> Result<Response<Bytes>, AuthError> {
        let Credentials::Kerberos(mutual) = self.identity.method else {
            return self.send_once(base, request).await;
        };
        // Some servers want to see a ticket with every request, whatever token is in it.
        let again = request.clone();
        let answer = self.send_once(base, request).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && kerberos::is_wanted(answer.headers()) {
            return self.send_with_ticket(base, again, mutual).await;
        }
        Ok(answer)
    }

    /// Sends a request with a Kerberos ticket. What comes back is the server's for which it is.
    async fn send_with_ticket(
        &self,
        base: &BaseUrl,
        mut request: Request<Bytes>,
        mutual: MutualAuth,
    ) -> Result<Response<Bytes>, AuthError> {
        let host = base.origin().host();
        // A KDC that keeps silent is not Keystone, so it is told apart.
        let patience = self.deadline / 2;
        let (negotiation, header) = Negotiation::begin(host, mutual, &self.turn, patience).await?;
        request.headers_mut().insert(AUTHORIZATION, header);
        let answer = self.send_once(base, request).await?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED && kerberos::is_wanted(answer.headers()) {
            let message = format!("the Kerberos ticket for HTTP@{host} was not accepted");
            return Err(AuthError::Rejected { status: status.as_u16(), message: Some(message) });
        }
        // Nothing comes of other answers.
        if status.is_success() {
            negotiation.check(answer.headers()).await?;
        }
        Ok(answer)
    }

    async fn send_once(&self, base: &BaseUrl, request: Request<Bytes>) -> Result<Response<Bytes>, AuthError> {
        let answer = self.exchange(base.origin(), request, LONGEST_ANSWER).await;
        answer.map_err(|error| AuthError::Unreachable(Arc::new(error)))
    }

    async fn exchange(
        &self,
        origin: &Origin,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, upstream::Error> {
        match &self.http {
            Transport::Network(http) => http.fetch(origin, request, limit).await,
            #[cfg(test)]
            Transport::Scripted(answer) => Ok(answer(&request)),
        }
    }

    async fn within_deadline<T>(
        &self,
        call: impl Future<Output = Result<T, AuthError>>,
    ) -> Result<T, AuthError> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(AuthError::Timeout { after: self.deadline }),
        }
    }
}

/// What an answer's times are measured against, if it is asked for now.
fn now() -> Sent {
    Sent { at: tokio::time::Instant::now().into_std(), wall: SystemTime::now() }
}

/// A request for `path` below `base`.
fn request(method: Method, base: &BaseUrl, path: &str, body: Bytes) -> Request<Bytes> {
    let path = if base.path().is_empty() && path.is_empty() { "/" } else { path };
    Request::builder()
        .method(method)
        .uri(format!("{}{path}", base.path()))
        .header(ACCEPT, "application/json")
        .body(body)
        .expect("a base URL's path was parsed as one, and ours are plain")
}

fn enabled_names(projects: &[ProjectInfo]) -> Vec<String> {
    projects.iter().filter(|info| info.enabled).map(|info| info.project.name.clone()).collect()
}

#[cfg(test)]
mod tests;
