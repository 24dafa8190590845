//! How does one log in?
//!
//! [`Client`] speaks to one cloud's Keystone: it finds out which Identity API there is, logs in with
//! the cloud's credentials, and checks tokens. Each call is one attempt with one deadline; when to
//! try again, and for whom, is [`TokenCache`](super::TokenCache)'s business. Scheme and host are
//! always those of `auth_url`, whatever a document says; a redirect is followed for a version document and nothing else, and
//! to no other host: nothing but the operator's word decides who gets the password.

mod federated;
mod person;
mod saml;

pub use self::person::Tell;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;

use super::kerberos::{self, Negotiation};
use super::oauth1::Signer;
use super::proof::{self, TOTP};
use super::protocol::{self, ProjectInfo, Receipt, Sent, bad_reply};
use super::{
    AuthError, Factor, Identity, IdentityVersion, LoginId, Method as Credentials, MutualAuth, Project, Scope,
    Secret, Token, TokenId, token,
};
use crate::private;
use crate::upstream::{self, BaseUrl, Origin};

/// How long a whole login may take.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

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

/// An Identity API and its base URL, version included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Api {
    version: ApiVersion,
    base: BaseUrl,
}

/// An unscoped token that stands for a login.
struct Unscoped {
    id: TokenId,
    /// The person's login, if it took one.
    login: Option<LoginId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApiVersion {
    V2,
    V3,
}

impl ApiVersion {
    /// The last path segment of its base URL.
    fn segment(self) -> &'static str {
        match self {
            Self::V2 => "v2.0",
            Self::V3 => "v3",
        }
    }

    fn from_segment(segment: &str) -> Option<Self> {
        [Self::V2, Self::V3].into_iter().find(|version| version.segment() == segment)
    }
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

    /// Which API to speak, and where. What a version document said is remembered; a guess is not.
    async fn api(&self) -> Result<Api, AuthError> {
        let auth_url = &self.identity.auth_url;
        let (root, named) = split_version(auth_url);
        let forced = match self.identity.version {
            IdentityVersion::V2 => Some(ApiVersion::V2),
            IdentityVersion::V3 => Some(ApiVersion::V3),
            IdentityVersion::Discover => named,
        };
        if let Some(version) = forced {
            return Ok(Api { version, base: versioned(&root, version) });
        }
        if let Some(found) = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(found);
        }
        let (answer, root) = self.version_document(root).await?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(protocol::refusal(&answer, "the question for its versions", &[]));
        }
        let offered = match status {
            StatusCode::OK | StatusCode::MULTIPLE_CHOICES => protocol::read_versions(answer.body()),
            _ => None,
        };
        let Some(offered) = offered else {
            return Ok(Api { version: ApiVersion::V3, base: versioned(&root, ApiVersion::V3) });
        };
        let api = Api { version: self.choose(&offered)?, base: root };
        let api = Api { base: versioned(&api.base, api.version), ..api };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(api.clone());
        Ok(api)
    }

    /// What there is at `root`, or where its redirects lead to at the same origin; and the root of that.
    async fn version_document(&self, root: BaseUrl) -> Result<(Response<Bytes>, BaseUrl), AuthError> {
        let mut path = format!("{}/", root.path());
        let mut answer = self.send(&root, request(Method::GET, &root, "/", Bytes::new())).await?;
        for _ in 0..protocol::MOST_REDIRECTS {
            let Some(next) = protocol::redirect_path(&answer, root.origin(), &path) else { break };
            let mut asked = request(Method::GET, &root, "/", Bytes::new());
            *asked.uri_mut() =
                next.parse().map_err(|_| bad_reply("Keystone redirects to what is no path"))?;
            answer = self.send(&root, asked).await?;
            path = next;
        }
        let (root, _) = split_version(&root.with_path(&path));
        Ok((answer, root))
    }

    fn choose(&self, offered: &[String]) -> Result<ApiVersion, AuthError> {
        let offers = |version: ApiVersion| offered.iter().any(|segment| segment == version.segment());
        if offers(ApiVersion::V3) {
            return Ok(ApiVersion::V3);
        }
        if !offers(ApiVersion::V2) {
            let mut offered = offered.to_vec();
            offered.dedup();
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            return Err(bad_reply(format!(
                "auth_url leads to a service that has neither Identity v3 nor v2.0 (its versions: {offered}); is \
                 it Keystone's?"
            )));
        }
        if protocol::names_a_domain(&self.identity.method, &self.identity.scope) {
            return Err(AuthError::NotInV2 {
                what: "domains, and this Keystone offers nothing newer than v2.0",
            });
        }
        Ok(ApiVersion::V2)
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

/// `auth_url` without the version at its end, and that version.
fn split_version(auth_url: &BaseUrl) -> (BaseUrl, Option<ApiVersion>) {
    let Some((root, last)) = auth_url.path().rsplit_once('/') else {
        return (auth_url.clone(), None);
    };
    match ApiVersion::from_segment(last) {
        Some(version) => (auth_url.with_path(root), Some(version)),
        None => (auth_url.clone(), None),
    }
}

fn versioned(root: &BaseUrl, version: ApiVersion) -> BaseUrl {
    root.with_path(&format!("{}/{}", root.path(), version.segment()))
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
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::keystone::{Domain, Secret, User};

    /// Answers by method and path, and keeps what was asked.
    #[derive(Clone, Default)]
    struct FakeKeystone {
        answers: HashMap<String, (u16, String)>,
        asked: Arc<Mutex<Vec<String>>>,
        bodies: Arc<Mutex<Vec<Value>>>,
    }

    impl FakeKeystone {
        fn with(mut self, request: &str, status: u16, body: impl ToString) -> Self {
            self.answers.insert(request.to_owned(), (status, body.to_string()));
            self
        }

        fn client(&self, auth_url: &str, version: IdentityVersion, domain: Option<&str>) -> Client {
            let identity = Identity {
                auth_url: BaseUrl::parse(auth_url).unwrap(),
                version,
                method: crate::keystone::Method::Password {
                    user: User::Name {
                        name: "demo".to_owned(),
                        domain: domain.map(|name| Domain::Name(name.to_owned())),
                    },
                    password: Secret::new("s3cret").into(),
                },
                scope: Scope::Default,
            };
            let fake = self.clone();
            let answer = move |request: &Request<Bytes>| fake.answer(request);
            Client::with_transport(Transport::Scripted(Arc::new(answer)), identity, DEFAULT_DEADLINE)
        }

        fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
            let mut asked = format!("{} {}", request.method(), request.uri());
            if let Ok(body) = serde_json::from_slice::<Value>(request.body()) {
                if !body["auth"]["tenantId"].is_null() {
                    asked.push_str(" with tenant");
                }
                self.bodies.lock().unwrap().push(body);
            }
            self.asked.lock().unwrap().push(asked.clone());
            let (status, body) = self.answers.get(&asked).cloned().unwrap_or((404, String::new()));
            let response = Response::builder().status(status).header("X-Subject-Token", "t");
            response.header("Location", "https://elsewhere.example/v3").body(Bytes::from(body)).unwrap()
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }
    }

    fn v3_token() -> Value {
        json!({"token": {"expires_at": "2026-11-21T22:21:13.000000Z", "issued_at": "2026-11-21T21:21:13.000000Z",
            "project": {"id": "p1", "name": "demo"}, "catalog": crate::keystone::catalog::tests::v3()}})
    }

    fn v2_token(tenant: Value) -> Value {
        json!({"access": {"token": {"id": "t", "expires": "2026-11-21T22:21:13Z",
            "issued_at": "2026-11-21T21:21:13Z", "tenant": tenant}, "serviceCatalog": []}})
    }

    const BOTH: &str = r#"{"versions": {"values": [
        {"id": "v3.8", "links": [{"href": "http://wrong.example/v3/", "rel": "self"}]},
        {"id": "v2.0", "links": [{"href": "http://wrong.example/v2.0/", "rel": "self"}]}]}}"#;
    const ONLY_V2: &str = r#"{"versions": {"values": [
        {"id": "v2.0", "links": [{"href": "http://wrong.example/v2.0/", "rel": "self"}]}]}}"#;
    const URL: &str = "http://k.example:5000";

    #[tokio::test]
    async fn a_version_at_the_end_of_auth_url_is_taken_at_its_word() {
        let fake = FakeKeystone::default().with("POST /identity/v3/auth/tokens", 201, v3_token()).with(
            "POST /identity/v2.0/tokens",
            200,
            v2_token(json!({"id": "p1", "name": "demo"})),
        );
        for (auth_url, version, expected) in [
            ("http://k/identity/v3", IdentityVersion::Discover, "POST /identity/v3/auth/tokens"),
            ("http://k/identity/v3/", IdentityVersion::Discover, "POST /identity/v3/auth/tokens"),
            ("http://k/identity/v2.0", IdentityVersion::Discover, "POST /identity/v2.0/tokens"),
            ("http://k/identity/v2.0", IdentityVersion::V3, "POST /identity/v3/auth/tokens"),
            ("http://k/identity/v3", IdentityVersion::V2, "POST /identity/v2.0/tokens"),
            ("http://k/identity", IdentityVersion::V3, "POST /identity/v3/auth/tokens"),
            ("http://k/identity", IdentityVersion::V2, "POST /identity/v2.0/tokens"),
        ] {
            fake.client(auth_url, version, None).authenticate(&Scope::Default).await.unwrap();
            assert_eq!(fake.asked(), [expected], "{auth_url} {version:?}");
        }
    }

    #[tokio::test]
    async fn versions_are_discovered_once_and_v3_wins() {
        let fake =
            FakeKeystone::default().with("GET /", 300, BOTH).with("POST /v3/auth/tokens", 201, v3_token());
        let client = fake.client(URL, IdentityVersion::Discover, Some("Default"));
        client.authenticate(&Scope::Default).await.unwrap();
        client.authenticate(&Scope::Default).await.unwrap();
        assert_eq!(fake.asked(), ["GET /", "POST /v3/auth/tokens", "POST /v3/auth/tokens"]);
    }

    #[tokio::test]
    async fn a_keystone_with_v2_only_is_used_unless_another_domain_than_the_default_is_named() {
        let fake = FakeKeystone::default().with("GET /", 300, ONLY_V2).with(
            "POST /v2.0/tokens",
            200,
            v2_token(json!({"id": "p1", "name": "demo"})),
        );
        for domain in [None, Some("Default"), Some("default")] {
            let client = fake.client(URL, IdentityVersion::Discover, domain);
            assert_eq!(client.authenticate(&Scope::Default).await.unwrap().project.unwrap().id, "p1");
        }
        let client = fake.client(URL, IdentityVersion::Discover, Some("acme"));
        let error = client.authenticate(&Scope::Default).await.unwrap_err();
        assert!(error.to_string().contains("domains"), "{error}");
    }

    #[tokio::test]
    async fn without_a_version_document_v3_is_tried_and_not_remembered() {
        for (status, body) in [(404, ""), (200, "<html>"), (302, "")] {
            let fake = FakeKeystone::default().with("GET /", status, body).with(
                "POST /v3/auth/tokens",
                201,
                v3_token(),
            );
            let client = fake.client(URL, IdentityVersion::Discover, None);
            client.authenticate(&Scope::Default).await.unwrap();
            client.authenticate(&Scope::Default).await.unwrap();
            assert_eq!(fake.asked().len(), 4, "{status}");
        }
        let fake = FakeKeystone::default().with("GET /", 503, "");
        let error = fake.client(URL, IdentityVersion::Discover, None).authenticate(&Scope::Default).await;
        assert!(matches!(error, Err(AuthError::Unavailable { status: 503, .. })), "{error:?}");
        let fake = FakeKeystone::default().with("GET /", 200, r#"{"versions": []}"#);
        let error = fake.client(URL, IdentityVersion::Discover, None).authenticate(&Scope::Default).await;
        assert!(error.unwrap_err().to_string().contains("is it Keystone's?"));
    }

    #[tokio::test]
    async fn a_v3_login_that_gets_no_scope_lists_the_projects() {
        let unscoped = json!({"token": {"expires_at": "2026-11-21T22:21:13.000000Z",
            "issued_at": "2026-11-21T21:21:13.000000Z"}});
        let projects = json!({"projects": [{"id": "1", "name": "demo", "enabled": true},
            {"id": "2", "name": "off", "enabled": false}, {"id": "3", "name": "lab"}]});
        let fake = FakeKeystone::default().with("POST /v3/auth/tokens", 201, unscoped).with(
            "GET /v3/auth/projects",
            200,
            projects,
        );
        let client = fake.client(URL, IdentityVersion::V3, Some("Default"));
        let error = client.authenticate(&Scope::Default).await.unwrap_err();
        assert!(error.to_string().ends_with("to one of: demo, lab"), "{error}");
        let token = client.authenticate(&Scope::Unscoped).await.unwrap();
        assert!(token.catalog.is_empty());
    }

    #[tokio::test]
    async fn a_v2_login_without_a_tenant_takes_the_only_one() {
        let tenants = |names: &[&str]| {
            let tenants: Vec<_> =
                names.iter().map(|name| json!({"id": "t1", "name": name, "enabled": true})).collect();
            json!({"tenants": tenants, "tenants_links": []})
        };
        let fake = |names: &[&str]| {
            FakeKeystone::default()
                .with("POST /v2.0/tokens", 200, v2_token(Value::Null))
                .with("POST /v2.0/tokens with tenant", 200, v2_token(json!({"id": "t1", "name": "demo"})))
                .with("GET /v2.0/tenants", 200, tenants(names))
        };
        let log_in = async |names: &[&str], scope: Scope| {
            let fake = fake(names);
            let client = fake.client(URL, IdentityVersion::V2, None);
            (client.authenticate(&scope).await, fake.asked().len())
        };
        let (token, calls) = log_in(&["demo"], Scope::Default).await;
        assert_eq!((token.unwrap().project.unwrap().id.as_str(), calls), ("t1", 3));
        let (error, _) = log_in(&[], Scope::Default).await;
        assert!(matches!(error, Err(AuthError::NoTenant)));
        let (error, _) = log_in(&["demo", "lab"], Scope::Default).await;
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("set OS_PROJECT_NAME to one of: demo, lab"), "{error}");
        let (token, calls) = log_in(&["demo", "lab"], Scope::Unscoped).await;
        assert_eq!((token.unwrap().project, calls), (None, 1));
    }

    #[tokio::test]
    async fn a_v2_keystone_is_asked_for_no_project_of_another_domain() {
        let fake = FakeKeystone::default().with(
            "POST /v2.0/tokens",
            200,
            v2_token(json!({"id": "p1", "name": "demo"})),
        );
        let client = fake.client(URL, IdentityVersion::V2, None);
        let project =
            |domain: Domain| Scope::Project(Project::Name { name: "demo".to_owned(), domain: Some(domain) });
        for domain in [Domain::Id("default".to_owned()), Domain::Name("Default".to_owned())] {
            assert!(client.authenticate(&project(domain)).await.is_ok());
        }
        assert_eq!(fake.asked().len(), 2);
        let elsewhere = Domain::Name("acme".to_owned());
        for scope in [project(elsewhere.clone()), Scope::Domain(elsewhere), Scope::System] {
            let error = client.authenticate(&scope).await.unwrap_err();
            assert!(matches!(error, AuthError::NotInV2 { .. }), "{error:?}");
        }
        assert_eq!(fake.asked().len(), 0);
    }

    #[tokio::test]
    async fn a_redirect_is_an_error_that_names_the_host_and_no_secret() {
        let fake = FakeKeystone::default().with("POST /v3/auth/tokens", 302, "");
        let client = fake.client(URL, IdentityVersion::V3, None);
        let error = client.authenticate(&Scope::Default).await.unwrap_err().to_string();
        assert!(error.contains("host elsewhere.example,"), "{error}");
        assert!(!format!("{client:?}").contains("s3cret"));
    }

    // Promise 17.
    #[tokio::test]
    async fn a_version_document_may_be_behind_redirects_at_the_same_host() {
        let client = |location: &'static str| {
            let asked: Arc<Mutex<Vec<String>>> = Arc::default();
            let seen = Arc::clone(&asked);
            let answer = move |request: &Request<Bytes>| {
                assert!(request.method() == Method::GET || request.uri().path().ends_with("/v3/auth/tokens"));
                seen.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
                let (status, body) = match request.uri().path() {
                    "/" => (302, String::new()),
                    "/identity/" | "/identity/v3/" => (300, BOTH.to_owned()),
                    "/identity/v3/auth/tokens" | "/v3/auth/tokens" => (201, v3_token().to_string()),
                    _ => (404, String::new()),
                };
                let response = Response::builder().status(status).header("X-Subject-Token", "t");
                response.header("Location", location).body(Bytes::from(body)).unwrap()
            };
            let fake = FakeKeystone::default().client(URL, IdentityVersion::Discover, None);
            let identity = (*fake.identity).clone();
            let client =
                Client::with_transport(Transport::Scripted(Arc::new(answer)), identity, DEFAULT_DEADLINE);
            (client, asked)
        };
        for (location, path) in [
            ("/identity/", "/identity/"),
            ("http://k.example:5000/identity/", "/identity/"),
            ("identity/v3/", "/identity/v3/"),
        ] {
            let (client, asked) = client(location);
            client.authenticate(&Scope::Default).await.unwrap();
            let expected =
                ["GET /".to_owned(), format!("GET {path}"), "POST /identity/v3/auth/tokens".to_owned()];
            assert_eq!(*asked.lock().unwrap(), expected, "{location}");
        }
        // What leads elsewhere says nothing, so the login goes where it would go without a document.
        for location in
            ["https://k.example:5000/identity/", "http://evil.example/identity/", "//evil.example/"]
        {
            let (client, asked) = client(location);
            client.authenticate(&Scope::Default).await.unwrap();
            assert_eq!(*asked.lock().unwrap(), ["GET /", "POST /v3/auth/tokens"], "{location}");
        }
        let (client, asked) = client("/");
        client.authenticate(&Scope::Default).await.unwrap();
        assert_eq!(asked.lock().unwrap().len(), 1 + protocol::MOST_REDIRECTS + 1);
    }

    #[tokio::test]
    async fn a_token_is_checked_with_keystone() {
        let token = TokenId::new("t").unwrap();
        for (status, good) in
            [(200, Some(true)), (204, Some(true)), (401, Some(false)), (404, None), (503, None)]
        {
            let fake = FakeKeystone::default().with("HEAD /v3/auth/tokens", status, "").with(
                "GET /v2.0/tenants",
                status,
                "",
            );
            for version in [IdentityVersion::V3, IdentityVersion::V2] {
                let checked = fake.client(URL, version, None).validate(&token).await;
                assert_eq!(checked.ok(), good, "{status} {version:?}");
            }
        }
    }

    /// A client with this method, and what it sends: each request with its headers that matter here.
    fn client_with(
        method: Credentials,
        answer: impl Fn(usize, &Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> (Client, Arc<Mutex<Vec<Asked>>>) {
        let identity = Identity {
            auth_url: BaseUrl::parse("http://k.example/v3").unwrap(),
            version: IdentityVersion::V3,
            method,
            scope: Scope::Project(Project::Id("p1".to_owned())),
        };
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let script = move |request: &Request<Bytes>| {
            let header = |name: &str| {
                request
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap().to_owned())
                    .unwrap_or_default()
            };
            let mut seen = seen.lock().unwrap();
            seen.push(Asked {
                line: format!("{} {}", request.method(), request.uri()),
                authorization: header("authorization"),
                receipt: header("openstack-auth-receipt"),
                token: header("x-auth-token"),
                subject: header("x-subject-token"),
                body: String::from_utf8(request.body().to_vec()).unwrap(),
            });
            answer(seen.len(), request)
        };
        (Client::with_transport(Transport::Scripted(Arc::new(script)), identity, DEFAULT_DEADLINE), asked)
    }

    struct Asked {
        line: String,
        authorization: String,
        receipt: String,
        token: String,
        subject: String,
        body: String,
    }

    impl Asked {
        fn auth(&self) -> Value {
            serde_json::from_str::<Value>(&self.body).unwrap()["auth"].take()
        }
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: impl ToString) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(Bytes::from(body.to_string())).unwrap()
    }

    fn issued(id: &str) -> Response<Bytes> {
        answer(201, &[("X-Subject-Token", id)], v3_token())
    }

    fn receipt(id: &str, methods: &[&str], rules: &Value) -> Response<Bytes> {
        let body = json!({"receipt": {"methods": methods}, "required_auth_methods": rules});
        answer(401, &[("Openstack-Auth-Receipt", id)], body)
    }

    fn ada() -> User {
        User::Id("ada".to_owned())
    }

    fn password() -> Credentials {
        Credentials::Password { user: ada(), password: Secret::new("s3cret").into() }
    }

    fn passcode(code: &str) -> Credentials {
        Credentials::Totp {
            user: ada(),
            passcode: crate::keystone::Passcode::Given(Secret::new(code).into()),
        }
    }

    fn by_id() -> Scope {
        Scope::Project(Project::Id("p1".to_owned()))
    }

    #[tokio::test]
    async fn several_methods_are_shown_at_once() {
        let method = Credentials::MultiFactor { shown: vec![password(), passcode("123456")], spare: vec![] };
        let (client, asked) = client_with(method, |count, _| issued(&format!("t{count}")));
        assert_eq!(client.authenticate(&by_id()).await.unwrap().id.expose(), "t2");
        let asked = asked.lock().unwrap();
        let first = asked[0].auth();
        assert_eq!(first["identity"]["methods"], json!(["password", "totp"]));
        assert_eq!(first["identity"]["password"]["user"], json!({"id": "ada", "password": "s3cret"}));
        assert_eq!(first["identity"]["totp"]["user"], json!({"id": "ada", "passcode": "123456"}));
        // The code is good once, so an unscoped token stands for it.
        assert_eq!(first["scope"], "unscoped");
        let second = asked[1].auth();
        assert_eq!(second["identity"], json!({"methods": ["token"], "token": {"id": "t1"}}));
        assert_eq!(second["scope"], json!({"project": {"id": "p1"}}));
    }

    #[tokio::test]
    async fn a_receipt_is_answered_with_what_is_missing_and_the_scope() {
        let rules = json!([["password", "x509"], ["totp", "password"]]);
        let method = Credentials::MultiFactor { shown: vec![password()], spare: vec![passcode("123456")] };
        let (client, asked) = client_with(method, move |count, _| match count {
            1 => receipt("r1", &["password"], &rules),
            count => issued(&format!("t{count}")),
        });
        assert_eq!(client.authenticate(&by_id()).await.unwrap().id.expose(), "t3");
        let asked = asked.lock().unwrap();
        let receipts: Vec<_> = asked.iter().map(|asked| asked.receipt.as_str()).collect();
        assert_eq!(receipts, ["", "r1", ""]);
        assert_eq!(asked[1].auth()["identity"]["methods"], json!(["totp"]));
        assert_eq!(asked[1].auth()["scope"], "unscoped");
        assert_eq!(asked[2].auth()["scope"], json!({"project": {"id": "p1"}}));
    }

    #[tokio::test]
    async fn a_method_that_keyway_has_nothing_for_is_named() {
        for (rules, expected) in [
            (json!([["password", "totp"]]), "accepted password and wants totp to log"),
            (json!([["password", "totp"], ["password", "x509", "k\"x\""]]), "wants totp, or x509 to log"),
            (json!([]), "wants another method to log"),
            (json!([["password"]]), "wants another method to log"),
        ] {
            let (client, asked) = client_with(password(), move |_, _| receipt("r1", &["password"], &rules));
            let error = client.authenticate(&by_id()).await.unwrap_err();
            assert!(matches!(error, AuthError::MoreMethods { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.is_rejection(), "the password is right");
            assert_eq!(asked.lock().unwrap().len(), 1);
        }
        // One receipt after the other comes to an end.
        let method = Credentials::MultiFactor { shown: vec![password()], spare: vec![passcode("1")] };
        let rules = json!([["password", "totp"]]);
        let (client, asked) = client_with(method, move |_, _| receipt("r1", &["password"], &rules));
        assert!(matches!(client.authenticate(&by_id()).await, Err(AuthError::MoreMethods { .. })));
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    // Promise 76.
    #[tokio::test]
    async fn a_receipt_does_not_show_in_an_error() {
        let rules = json!([["password", "totp"]]);
        let method = Credentials::MultiFactor { shown: vec![password()], spare: vec![passcode("123456")] };
        let (client, _) = client_with(method, move |count, request| match count {
            1 => receipt("a-long-receipt", &["password"], &rules),
            _ => {
                let echo = format!("no: {:?} {:?}", request.headers(), request.body());
                answer(401, &[], json!({"error": {"message": format!("{echo} a-long-receipt 123456")}}))
            }
        });
        let error = client.authenticate(&by_id()).await.unwrap_err();
        assert!(error.is_rejection(), "{error:?}");
        let shown = format!("{error} {error:?} {client:?}");
        assert!(!shown.contains("a-long-receipt") && !shown.contains("123456"), "{shown}");
    }

    #[tokio::test]
    async fn a_given_passcode_is_shown_once() {
        let (client, asked) = client_with(passcode("123456"), |count, _| match count {
            1 => answer(401, &[], json!({"error": {"message": "Invalid username or TOTP passcode"}})),
            _ => unreachable!("it is not right the second time"),
        });
        assert!(client.authenticate(&by_id()).await.unwrap_err().is_rejection());
        let error = client.authenticate(&by_id()).await.unwrap_err();
        assert!(matches!(error, AuthError::PasscodeUsed { wait: None }), "{error:?}");
        assert!(error.to_string().contains("set totp_secret"), "{error}");
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_command_is_asked_for_another_passcode_after_each_login() {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("echo >> '{0}'; wc -l < '{0}'", directory.path().join("asked").display());
        let words = ["-c".to_owned(), script];
        let command = crate::secret::Command::new(
            "/bin/sh".into(),
            words.into(),
            vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        );
        let source = crate::keystone::Source::Command(command);
        let method = Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Given(source) };
        let (client, asked) = client_with(method, |_, _| answer(401, &[], "{}"));
        for code in 1..4 {
            assert!(client.authenticate(&by_id()).await.unwrap_err().is_rejection());
            let asked = asked.lock().unwrap();
            let body: Value = serde_json::from_str(&asked.last().unwrap().body).unwrap();
            assert_eq!(body["auth"]["identity"]["totp"]["user"]["passcode"], code.to_string());
        }
    }

    #[tokio::test]
    async fn a_computed_passcode_is_shown_once_and_there_is_another_soon() {
        let secret = Secret::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").into();
        let method = Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Computed(secret) };
        let (client, asked) = client_with(method, |_, _| answer(401, &[], "{}"));
        // The code may change in between.
        while asked.lock().unwrap().len() < 3 {
            match client.authenticate(&by_id()).await.unwrap_err() {
                AuthError::PasscodeUsed { wait: Some(wait) } => {
                    assert!(wait <= Duration::from_secs(30));
                    return;
                }
                error => assert!(error.is_rejection(), "{error:?}"),
            }
        }
        panic!("no code was used twice in a row");
    }

    /// A Keystone that forgets a token, and has words of its own for a scope that is not the user's.
    #[tokio::test]
    async fn the_kept_token_serves_every_scope_until_keystone_forgets_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passcode");
        std::fs::write(&path, "111111").unwrap();
        let source = crate::keystone::Source::File(path.clone());
        let method = Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Given(source) };
        let forgotten: Arc<Mutex<Vec<String>>> = Arc::default();
        let forgot = Arc::clone(&forgotten);
        let (client, asked) = client_with(method, move |count, request| {
            let forgot = forgot.lock().unwrap();
            if request.method() == Method::HEAD {
                let token = request.headers()["x-auth-token"].to_str().unwrap().to_owned();
                return answer(if forgot.contains(&token) { 401 } else { 200 }, &[], "");
            }
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            let token = body["auth"]["identity"]["token"]["id"].as_str().unwrap_or_default();
            if forgot.iter().any(|id| id == token) {
                return answer(404, &[], json!({"error": {"message": "Could not recognize Fernet token"}}));
            }
            if body["auth"]["scope"]["project"]["id"] == "closed" {
                return answer(401, &[], "{}");
            }
            issued(&format!("t{count}"))
        });
        let logins = || {
            let asked = asked.lock().unwrap();
            asked.iter().filter(|asked| asked.body.contains("totp")).count()
        };
        for _ in 0..3 {
            client.authenticate(&by_id()).await.unwrap();
        }
        client.authenticate(&Scope::System).await.unwrap();
        assert_eq!(logins(), 1);
        let closed = Scope::Project(Project::Id("closed".to_owned()));
        assert!(client.authenticate(&closed).await.unwrap_err().is_rejection());
        assert_eq!(logins(), 1, "a scope that is not the user's costs no code");

        forgotten.lock().unwrap().push("t1".to_owned());
        let error = client.authenticate(&by_id()).await.unwrap_err();
        assert!(matches!(error, AuthError::PasscodeUsed { .. }), "{error:?}");
        std::fs::write(&path, "222222").unwrap();
        client.authenticate(&by_id()).await.unwrap();
        assert_eq!(logins(), 2);
        client.authenticate(&by_id()).await.unwrap();
        assert_eq!(logins(), 2);
    }

    #[tokio::test]
    async fn an_oauth2_client_gets_a_token_and_an_access_token() {
        let endpoint = || BaseUrl::parse("https://o.example/v3/OS-OAUTH2/token").unwrap();
        let by_secret = || Credentials::OAuth2 {
            endpoint: endpoint(),
            client_id: "c1".to_owned(),
            client_secret: Secret::new("s3cret").into(),
        };
        let (client, asked) = client_with(by_secret(), |count, _| match count {
            1 => issued("the-token"),
            _ => answer(
                200,
                &[],
                json!({"access_token": "the-access", "token_type": "Bearer", "expires_in": 600}),
            ),
        });
        let token = client.authenticate(&by_id()).await.unwrap();
        assert_eq!(token.lifetime(), Duration::from_secs(600));
        let carried: Vec<_> = token.fields().iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(carried, ["the-token", "Bearer the-access"]);
        {
            let asked = asked.lock().unwrap();
            assert_eq!(
                asked[0].auth(),
                json!({"identity": {"methods": ["application_credential"],
                                    "application_credential": {"id": "c1", "secret": "s3cret"}}})
            );
            assert_eq!(asked[1].line, "POST /v3/OS-OAUTH2/token");
            assert_eq!(
                (&*asked[1].authorization, &*asked[1].body),
                ("Basic YzE6czNjcmV0", "grant_type=client_credentials")
            );
        }

        let refused =
            json!({"error": "invalid_client", "error_description": "Client authentication failed."});
        for (status, body, expected) in [
            (401, refused, "(\"Client authentication failed.\")"),
            (
                401,
                json!({"error": "invalid_client", "error_description": "c1:s3cret is wrong"}),
                "with 401; check",
            ),
            (200, json!({"token_type": "Bearer"}), "no usable `access_token`"),
            (200, json!({"access_token": "a", "expires_in": 0}), "has already expired"),
            (503, json!({}), "answered 503"),
        ] {
            let (client, _) = client_with(by_secret(), move |count, _| match count {
                1 => issued("the-token"),
                _ => answer(status, &[], &body),
            });
            let error = client.authenticate(&by_id()).await.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_client_with_a_certificate_asks_what_its_access_token_is_good_for() {
        let method = || Credentials::OAuth2Mtls {
            endpoint: BaseUrl::parse("https://o.example/").unwrap(),
            client_id: "c 1&".to_owned(),
        };
        let access = json!({"access_token": "the-access", "token_type": "Bearer", "expires_in": 3600});
        let (client, asked) = client_with(method(), move |count, _| match count {
            1 => answer(200, &[], &access),
            _ => answer(200, &[], v3_token()),
        });
        let token = client.authenticate(&by_id()).await.unwrap();
        assert!(!token.catalog.is_empty());
        let carried: Vec<_> = token.fields().iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(carried, ["the-access", "Bearer the-access"]);
        {
            let asked = asked.lock().unwrap();
            assert_eq!((&*asked[0].line, &*asked[0].authorization), ("POST /", ""));
            assert_eq!(asked[0].body, "grant_type=client_credentials&client_id=c%201%26");
            assert_eq!(asked[1].line, "GET /v3/auth/tokens");
            assert_eq!((&*asked[1].token, &*asked[1].subject), ("the-access", "the-access"));
        }

        let (client, _) = client_with(method(), |count, _| match count {
            1 => answer(200, &[], json!({"access_token": "the-access"})),
            _ => answer(401, &[], json!({"error": {"message": "the-access is unknown"}})),
        });
        let error = client.authenticate(&by_id()).await.unwrap_err();
        assert!(error.is_rejection() && !error.to_string().contains("the-access"), "{error}");
    }
}
