//! Requests that keyway answers itself, as Keystone would: logins, tokens, catalogs, version documents.
//!
//! The real token behind each of keyway's stays in the token cache: it is asked for here because its scope
//! decides whether a client gets a token at all, and because Keystone's document of it is what the client is
//! told.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::destination::no_endpoint;
use super::record::Trail;
use super::session::Caller;
use super::{Address, Door, Gateway};
use crate::audit::Decision;
use crate::entry;
use crate::error::ProxyError;
use crate::facade::call::Call;
use crate::facade::catalog::{self, Services, Shown};
use crate::facade::documents::{self, Version};
use crate::facade::request::{self, Login, Proof, Wanted};
use crate::facade::{Logins, Refusal, Session, Unusable, View, random_id, reply};
use crate::identity::{self, Identity, Proved, Rights};
use crate::incoming::Incoming;
use crate::keystone::{self, Asked, Auth, AuthError, Domain, Named, Project, Scope, Token};
use crate::proxy;
use crate::proxy::headers::{X_AUTH_TOKEN, X_STORAGE_TOKEN};
use crate::proxy::rewrite::Base;
use crate::route::{Route, encode};
use crate::server::Client;

static X_SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");
static X_STORAGE_URL: HeaderName = HeaderName::from_static("x-storage-url");
static X_AUTH_TOKEN_EXPIRES: HeaderName = HeaderName::from_static("x-auth-token-expires");

/// The largest body of a login, bytes; what honest clients send is a hundredth of it.
const LARGEST_LOGIN: usize = 256 * 1024;

/// How long after its end a token may still be looked at with `allow_expired`, seconds; Keystone's default.
const ALLOW_EXPIRED_WINDOW: i64 = 48 * 3600;

/// Why a call has no good answer.
enum Failure {
    /// It deserves none.
    Refused(Refusal),
    /// keyway has none.
    Failed(ProxyError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self::Failed(error)
    }
}

impl Gateway {
    /// Answers a call that may be the facade's; `None` for what goes to Keystone after all. The body is taken
    /// only if there is an answer.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn facade(
        &self,
        call: Call<'_>,
        (door, client, route): (&Door, &Client, &Route<'_>),
        caller: &Caller,
        parts: &Parts,
        incoming: &mut Option<Incoming>,
        trail: &mut Trail,
    ) -> Result<Option<Response<Bytes>>, ProxyError> {
        let (region, project) = (route.region()?, route.project()?);
        let Some(index) = self.local_cloud(route)? else { return Ok(None) };
        let cloud = &*self.shared.clouds[index];
        trail.service = self.shared.metrics.service(&self.worker, &cloud.name, "identity");
        if !call.is_open() {
            if let Some(why) = caller.refused {
                return Err(self.unauthorized(door, Some(route), parts, why));
            }
            if caller.session.as_deref().is_some_and(|session| session.cloud() != cloud.name) {
                return Err(self.unauthorized(door, Some(route), parts, Unusable::OtherCloud));
            }
            if let Some(Proved { identity, .. }) = &caller.proved
                && !identity.rights.has_cloud(&cloud.name)
            {
                return Err(ProxyError::beyond(identity, "clouds"));
            }
        }
        let address = Address::new(&self.shared.doors[0], door, route, parts);
        let (base, ordinary) = (address.base(), address.ordinary());
        let ordinary = ordinary.map(|root| match index {
            0 => root,
            _ => format!("{root}/cloud/{}", encode(&cloud.name)),
        });
        let local = Local {
            gateway: self,
            door,
            client,
            route,
            parts,
            session: caller.session.as_deref(),
            identity: caller.proved.as_ref().map(|proved| Arc::clone(&proved.identity)),
            proved: caller.proved.as_ref(),
            index,
            cloud,
            keystone: ordinary.as_ref().map_or_else(|| base.clone(), |root| format!("{root}/identity")),
            base,
            ordinary,
            region,
            project,
            now: jiff::Timestamp::now().as_second(),
        };
        let answer = match local.answer(call, incoming, trail).await {
            Ok(None) => return Ok(None),
            Ok(Some(answer)) => answer,
            Err(Failure::Refused(refusal)) => {
                let is_refused = refusal.status() == StatusCode::UNAUTHORIZED;
                trail.refused =
                    trail.refused.or(Some((Decision::Denied, "scope_refused"))).filter(|_| is_refused);
                refusal.response(&local.base)
            }
            Err(Failure::Failed(error)) => return Err(error),
        };
        Ok(Some(finish(answer, parts.method == Method::HEAD)))
    }

    /// The cloud whose Keystone a request asks, by its place among all; `None` if there is no such cloud.
    pub(super) fn local_cloud(&self, route: &Route<'_>) -> Result<Option<usize>, ProxyError> {
        Ok(match route.cloud()? {
            None => Some(0),
            Some(asked) => self.shared.clouds.iter().position(|cloud| cloud.name == asked),
        })
    }
}

/// Gives an answer the length that it has, and HEAD no more than that.
fn finish(mut answer: Response<Bytes>, head_only: bool) -> Response<Bytes> {
    if answer.status() != StatusCode::NO_CONTENT {
        let length = answer.body().len();
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    if head_only {
        *answer.body_mut() = Bytes::new();
    }
    answer
}

/// The local Keystone of one cloud, for one request.
#[derive(Clone)]
struct Local<'a> {
    gateway: &'a Gateway,
    door: &'a Door,
    client: &'a Client,
    route: &'a Route<'a>,
    parts: &'a Parts,
    session: Option<&'a Session>,
    /// Whose request it is; while somebody logs in, who that turns out to be.
    identity: Option<Arc<Identity>>,
    /// Who sent the request, before anybody logs in.
    proved: Option<&'a Proved>,
    /// The cloud's place among all.
    index: usize,
    cloud: &'a keystone::Config,
    /// Keystone's root, as the request has it: `http://localhost:8180/identity`.
    base: String,
    /// The same in a catalog.
    keystone: String,
    /// What the other URLs of a catalog begin with: `http://localhost:8180/cloud/lab`. None if only services
    /// have listeners that this client reaches.
    ordinary: Option<String>,
    /// The region that the request's path names.
    region: Option<Cow<'a, str>>,
    /// The project that the request's path names.
    project: Option<Cow<'a, str>>,
    /// UNIX seconds.
    now: i64,
}

/// A token of ours and what it stands for.
struct Issued {
    id: String,
    session: Session,
    real: Arc<Token>,
}

impl Local<'_> {
    /// Answers a call; `None` if it is for Keystone after all.
    async fn answer(
        &self,
        call: Call<'_>,
        incoming: &mut Option<Incoming>,
        trail: &mut Trail,
    ) -> Result<Option<Response<Bytes>>, Failure> {
        let query = self.parts.uri.query().unwrap_or_default();
        Ok(Some(match call {
            Call::Versions => {
                let mut answer = reply::json(StatusCode::MULTIPLE_CHOICES, &documents::versions(&self.base));
                insert(&mut answer, &header::LOCATION, &format!("{}/v3/", self.base))?;
                answer
            }
            Call::Version(version) => reply::json(StatusCode::OK, &documents::version(&self.base, version)),
            Call::LogIn(version) => {
                let body = self.body(incoming, &mut trail.received).await?;
                let (local, issued) = self.log_in(&request::read(&body, version)?, trail).await?;
                match version {
                    Version::V3 => local.token_v3(&issued, StatusCode::CREATED, query)?,
                    Version::V2 => local.token_v2(&issued),
                }
            }
            Call::LogInToSwift => self.log_in_to_swift(trail).await?,
            Call::Show => {
                let at = self.now - if allows_expired(query) { ALLOW_EXPIRED_WINDOW } else { 0 };
                let Some(token) = subject(&self.parts.headers) else { return Ok(None) };
                let Some(issued) = self.known(token, at).await? else { return Ok(None) };
                self.token_v3(&issued, StatusCode::OK, query)?
            }
            Call::ShowV2(token) => {
                let Some(issued) = self.known(token, self.now).await? else { return Ok(None) };
                if let Some(tenant) = parameter(query, "belongsTo")
                    && issued.real.project.as_ref().is_none_or(|project| project.id != tenant)
                {
                    return Err(Refusal::unauthorized().into());
                }
                self.token_v2(&issued)
            }
            Call::Endpoints(token) => {
                let Some(issued) = self.known(token, self.now).await? else { return Ok(None) };
                self.endpoints(&issued)
            }
            Call::Revoke | Call::RevokeV2(_) => {
                let token = match call {
                    Call::RevokeV2(token) => Some(token),
                    _ => subject(&self.parts.headers),
                };
                let Some(token) = token else { return Ok(None) };
                let Some(session) = self.open(token, self.now)? else { return Ok(None) };
                self.gateway.shared.keys.revoke(&session).await;
                reply::empty(StatusCode::NO_CONTENT)
            }
            Call::Catalog => self.catalog().await?,
            Call::Extensions => reply::json(StatusCode::OK, &json!({"extensions": {"values": []}})),
            Call::Projects(user) => return self.projects(user, query).await,
            Call::Domains => return self.other_scopes("domains").await,
            Call::System => return self.other_scopes("system").await,
            Call::Tenants => return self.tenants(query).await,
        }))
    }

    /// The body of a login, which is wiped when it was read: it may hold a password.
    async fn body(
        &self,
        incoming: &mut Option<Incoming>,
        received: &mut u64,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let too_large = || {
            let message =
                format!("The request body is larger than {LARGEST_LOGIN} bytes, which no login is.");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let announced = incoming.as_ref().and_then(|incoming| incoming.size_hint().exact()).unwrap_or(0);
        if announced > LARGEST_LOGIN as u64 {
            return Err(too_large().into());
        }
        let mut rest = incoming.take().expect("it is taken here only");
        // Grown at once, so that no copy of a password stays behind.
        let room =
            if announced > 0 { usize::try_from(announced).unwrap_or(LARGEST_LOGIN) } else { 16 * 1024 };
        let mut body = Zeroizing::new(Vec::with_capacity(room));
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await;
            let Some(frame) = frame else { return Ok(body) };
            let Ok(piece) = frame.map_err(ProxyError::Body)?.into_data() else { continue };
            *received += piece.len() as u64;
            if body.len() + piece.len() > LARGEST_LOGIN {
                proxy::drain(self.parts, rest);
                return Err(too_large().into());
            }
            if body.len() + piece.len() > body.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(LARGEST_LOGIN));
                larger.extend_from_slice(&body);
                body = larger;
            }
            body.extend_from_slice(&piece);
        }
    }

    /// What a request with this session carries; without one, what the path or the cloud decides.
    fn asked(&self, session: Option<&Session>) -> Asked {
        match (session, &self.project) {
            (Some(session), _) => session.asked(),
            (None, Some(project)) => Asked::Project(project.clone().into_owned()),
            (None, None) => match self.rights().and_then(|rights| rights.projects.first()) {
                Some(first) => Asked::Project(first.clone()),
                None => Asked::Own,
            },
        }
    }

    /// The real token; where the credential can't have the scope, what Keystone says to that.
    async fn token(&self, scope: Asked) -> Result<Arc<Token>, Failure> {
        let own = scope == Asked::Own;
        let key = keystone::Key { cloud: self.index, scope };
        self.gateway.shared.tokens.current(&key).await.map_err(|error| match error.root() {
            AuthError::UnknownProject { .. } | AuthError::AmbiguousProject { .. } => {
                let message = match self.limits() {
                    Some(projects) => only(projects),
                    None => ProxyError::Auth(Arc::clone(&error)).to_string(),
                };
                Refusal::new(StatusCode::UNAUTHORIZED, message).into()
            }
            AuthError::ScopeRefused { status, message } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::UNAUTHORIZED);
                Refusal::new(status, message.clone()).into()
            }
            AuthError::ScopeFixed { .. } | AuthError::NotInV2 { .. } if !own => {
                let message = ProxyError::Auth(Arc::clone(&error)).to_string();
                Refusal::new(StatusCode::UNAUTHORIZED, message).into()
            }
            _ => ProxyError::Auth(error).into(),
        })
    }

    /// Checks who logs in, and finds the scope. What it returns is for the one who logged in.
    async fn log_in(&self, login: &Login, trail: &mut Trail) -> Result<(Self, Issued), Failure> {
        let (gateway, door) = (self.gateway, self.door);
        trail.refused = Some((Decision::Unauthorized, "bad_login"));
        let mut methods = login.methods.clone();
        let life = gateway.shared.facade.token_life.as_secs();
        let mut expires_at = self.now.saturating_add_unsigned(life);
        let (mut vouched, mut proved) = (None, None);
        let mut under_way = None;
        for proof in &login.proofs {
            let shown = match proof {
                Proof::Secret { name, secret } => {
                    let shown =
                        gateway.log_in((door, self.client), self.route, self.parts, name, secret.expose());
                    proved = shown.map_err(|error| match error {
                        ProxyError::WrongPassword { .. } => Refusal::unauthorized().into(),
                        error => Failure::Failed(error),
                    })?;
                    proved.as_ref().map(|proved| gateway.vouch(proved))
                }
                Proof::Other if door.logins == Logins::Any => None,
                Proof::Other => return Err(Refusal::unauthorized().into()),
                Proof::Token(token) => match self.session(token.expose(), self.now) {
                    Ok(session) if session.cloud() == self.cloud.name => {
                        // A token can't be used to live for ever.
                        expires_at = expires_at.min(session.expires_at);
                        for method in session.methods {
                            if !methods.contains(&method) {
                                methods.push(method);
                            }
                        }
                        session.login
                    }
                    Err(Unusable::NoToken) if door.logins == Logins::Any => None,
                    _ => return Err(Refusal::unauthorized().into()),
                },
            };
            if vouched.is_some() && shown.is_some() && vouched != shown {
                return Err(Refusal::unauthorized().into());
            }
            vouched = vouched.or(shown);
        }
        // Where anybody may log in, who has an identity by its certificate or user keeps it.
        if let (None, Some(own)) = (&vouched, self.proved) {
            vouched = Some(gateway.vouch(own));
            proved = Some(own.clone());
        }
        let identities = &gateway.shared.identities;
        let identity = vouched.as_ref().and_then(|vouched| identities.named(&vouched.name)).cloned();
        if let Some(rights) = identity.as_ref().map(|identity| &identity.rights) {
            let ends = rights.ends.map_or(i64::MAX, |ends| ends.as_second());
            if ends <= self.now {
                return Err(Refusal::unauthorized().into());
            }
            expires_at = expires_at.min(ends);
        }
        if let Some(identity) = &identity {
            let by_token = || identity::Proved {
                identity: Arc::clone(identity),
                proof: identity::Proof::Token,
                key: None,
            };
            let proved = proved.unwrap_or_else(by_token);
            // A request that shows no more than its login is counted from here on.
            let counted = self.identity.as_ref().is_some_and(|known| Arc::ptr_eq(known, identity));
            under_way = if counted { None } else { gateway.enter(&proved)? };
            trail.proved = Some(proved);
            if !identity.rights.has_cloud(&self.cloud.name) {
                return Err(ProxyError::beyond(identity, "clouds").into());
            }
        }
        trail.refused = Some((Decision::Denied, "scope_refused"));
        let local = Self { identity, ..self.clone() };
        let (scope, real) = local.scope(&login.wanted).await?;
        trail.refused = None;
        trail.token = Some(Arc::clone(&real));
        if let Auth::Identity(identity) = &self.cloud.auth
            && matches!(identity.method, keystone::Method::Token(_))
        {
            // Nobody can renew that one.
            expires_at = expires_at.min(real.expires_at.unwrap_or(expires_at));
        }
        let session = Session {
            id: random_id(),
            key: (self.cloud.name.as_str().into(), scope),
            login: vouched,
            methods,
            issued_at: self.now,
            expires_at,
        };
        let issued = Issued { id: gateway.issue(&session), session, real };
        drop(under_way);
        Ok((local, issued))
    }

    /// The scope that a client wants, by ids, and its real token.
    async fn scope(&self, wanted: &Wanted) -> Result<(Scope, Arc<Token>), Failure> {
        let asked = match wanted {
            Wanted::Default => self.asked(None),
            Wanted::Trust(_) => Asked::Own,
            Wanted::Exactly(scope) => Asked::Exactly(scope.clone()),
            Wanted::Project(project) => Asked::Project(project.clone()),
        };
        let real = self.token(asked).await?;
        let id_in = |place: &str| {
            let document: Value = serde_json::from_slice(real.document.as_ref()?).ok()?;
            document[place]["id"].as_str().map(str::to_owned)
        };
        if let Wanted::Trust(trust) = wanted
            && id_in("OS-TRUST:trust").as_ref() != Some(trust)
        {
            let message = "keyway's credential is not of that trust; leave the trust out.";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, message).into());
        }
        // By its id a project stays what it is, whatever the cloud's default one will be.
        let scope = match (&real.project, wanted) {
            (Some(project), _) => Scope::Project(Project::Id(project.id.clone())),
            (None, Wanted::Exactly(Scope::Domain(domain))) => {
                Scope::Domain(id_in("domain").map_or_else(|| domain.clone(), Domain::Id))
            }
            (None, Wanted::Exactly(scope)) => scope.clone(),
            (None, _) => Scope::Default,
        };
        if !self.permits(&Asked::Exactly(scope.clone()), &real) {
            return Err(
                Refusal::new(StatusCode::UNAUTHORIZED, only(self.limits().unwrap_or_default())).into()
            );
        }
        Ok((scope, real))
    }

    fn view(&self) -> Option<&View> {
        self.gateway.shared.facade.clouds.get(&self.cloud.name)
    }

    fn rights(&self) -> Option<&Rights> {
        self.identity.as_ref().map(|identity| &identity.rights)
    }

    /// The projects that this client may ask for, if not all.
    fn limits(&self) -> Option<&[String]> {
        let own = self.rights().map(|rights| &*rights.projects);
        let of_cloud = self.view().map(|view| &*view.projects);
        [own, of_cloud].into_iter().flatten().find(|projects| !projects.is_empty())
    }

    /// Whether this client may have a token of this scope.
    fn permits(&self, scope: &Asked, real: &Token) -> bool {
        let project = real.project.as_ref();
        self.view().is_none_or(|view| view.permits(scope, project))
            && self.rights().is_none_or(|rights| {
                matches!(scope, Asked::Exactly(Scope::Unscoped)) || rights.has_project(project)
            })
    }

    fn session(&self, token: &str, at: i64) -> Result<Session, Unusable> {
        self.gateway.session((self.door, self.client), token.as_bytes(), at)
    }

    /// The session of a token that someone asks about; `None` if it is none of ours.
    fn open(&self, token: &str, at: i64) -> Result<Option<Session>, Refusal> {
        match self.session(token, at) {
            Ok(session) if session.cloud() == self.cloud.name => Ok(Some(session)),
            Err(Unusable::Foreign | Unusable::NoToken) => Ok(None),
            _ => Err(Refusal::unknown_token()),
        }
    }

    /// The same with what it stands for.
    async fn known(&self, token: &str, at: i64) -> Result<Option<Issued>, Failure> {
        let Some(session) = self.open(token, at)? else { return Ok(None) };
        let real = self.token(session.asked()).await?;
        let of_login =
            session.login.as_ref().and_then(|login| self.gateway.shared.identities.named(&login.name));
        let within = of_login.is_none_or(|identity| {
            session.asked() == Asked::Exactly(Scope::Unscoped)
                || identity.rights.has_project(real.project.as_ref())
        });
        if !within || self.view().is_some_and(|view| !view.permits(&session.asked(), real.project.as_ref())) {
            return Err(Refusal::unknown_token().into());
        }
        Ok(Some(Issued { id: token.to_owned(), session, real }))
    }

    /// Keystone's document of a token, and apart from it the catalog as clients get it.
    fn parse(&self, real: &Token, version: Version) -> (Option<Map<String, Value>>, Option<Value>) {
        let document = real.document.as_ref().and_then(|document| serde_json::from_slice(document).ok());
        let Some(mut document): Option<Map<String, Value>> = document else {
            return (None, Some(self.localize(&json!([]), real, version)));
        };
        let catalog = document.remove("catalog");
        (Some(document), catalog.map(|catalog| self.localize(&catalog, real, version)))
    }

    fn localize(&self, catalog: &Value, real: &Token, version: Version) -> Value {
        let services = self.services(real);
        let (keystone, region) = (&*self.keystone, self.region.as_deref());
        let regions = self.rights().map_or(&[][..], |rights| &rights.regions);
        let shown = Shown { keystone, services: &services, version, view: self.view(), region, regions };
        catalog::localize(catalog, &self.cloud.of_token(real), shown)
    }

    /// How this client finds the services of a token.
    fn services(&self, real: &Token) -> Services {
        if let Some(ordinary) = &self.ordinary {
            return Services::Origins(ordinary.clone());
        }
        let shared = &self.gateway.shared;
        let cloud = self.cloud.of_token(real);
        let authority = self.parts.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        let host = entry::split(authority).map_or("localhost", |(host, _)| host);
        let at = |door: &Door| {
            let route = Route::parse(door.pinned.as_deref()?).ok()?;
            let of_cloud = match route.cloud().ok()? {
                Some(cloud) => cloud == self.cloud.name,
                None => self.index == 0,
            };
            let (service, region) = (route.service().ok()?, route.region().ok()?);
            let catalog = &real.catalog;
            let found = keystone::catalog::choose(&cloud, catalog, &service, region.as_deref()).ok()?;
            let project = real.project.as_ref().map(|project| project.id.as_str());
            let base = Base::new(found.url.path(), project);
            let there = door.address.tcp().map(|address| format!("{host}:{}", address.port()));
            let local = match there.filter(|there| door.entry.has(there)) {
                Some(there) => format!("{}://{there}", door.scheme.as_str()),
                None => door.url.clone(),
            };
            of_cloud.then(|| (found.url.with_path(base.root()), local))
        };
        Services::Alone(shared.doors.iter().filter_map(at).collect())
    }

    fn token_v3(&self, issued: &Issued, status: StatusCode, query: &str) -> Result<Response<Bytes>, Failure> {
        let (document, catalog) = self.parse(&issued.real, Version::V3);
        let mut token = documents::token_v3(document, &issued.real, &issued.session);
        if let Some(catalog) = catalog.filter(|_| parameter(query, "nocatalog").is_none()) {
            token.insert("catalog".to_owned(), catalog);
        }
        let mut answer = reply::json(status, &json!({ "token": token }));
        insert(&mut answer, &X_SUBJECT_TOKEN, &issued.id)?;
        Ok(answer)
    }

    fn token_v2(&self, issued: &Issued) -> Response<Bytes> {
        let (document, catalog) = self.parse(&issued.real, Version::V2);
        let token = documents::token_v3(document, &issued.real, &issued.session);
        reply::json(StatusCode::OK, &documents::access_v2(&issued.id, token, catalog.as_ref()))
    }

    fn endpoints(&self, issued: &Issued) -> Response<Bytes> {
        let catalog = self.parse(&issued.real, Version::V2).1.unwrap_or_else(|| json!([]));
        let endpoints = catalog::endpoints_v2(&catalog);
        reply::json(StatusCode::OK, &json!({"endpoints": endpoints, "endpoints_links": []}))
    }

    /// `GET /v3/auth/catalog`
    async fn catalog(&self) -> Result<Response<Bytes>, Failure> {
        let real = self.token(self.asked(self.session)).await?;
        if real.document.is_some() && real.project.is_none() {
            let message = "The token has no project, so there is no catalog; log in to a project.";
            return Err(Refusal::new(StatusCode::FORBIDDEN, message).into());
        }
        let catalog = self.parse(&real, Version::V3).1.unwrap_or_else(|| json!([]));
        let links = json!({"self": format!("{}/v3/auth/catalog", self.base)});
        Ok(reply::json(StatusCode::OK, &json!({"catalog": catalog, "links": links})))
    }

    /// The enabled projects that a client may ask for.
    async fn listed(&self) -> Result<Vec<Named>, Failure> {
        let all = self.gateway.shared.tokens.projects(self.index).await.map_err(ProxyError::Auth)?;
        let shown = all.iter().filter(|info| info.enabled).map(|info| &info.project);
        let (view, rights) = (self.view(), self.rights());
        let listed = |project: &&Named| {
            view.is_none_or(|view| view.lists(project))
                && rights.is_none_or(|rights| rights.has_project(Some(project)))
        };
        Ok(shown.filter(listed).cloned().collect())
    }

    /// `GET /v3/auth/projects`, or the same for a user, or all projects (by name, if the query has one): Keystone's own
    /// list, unless it has no such call or says more than clients may know.
    async fn projects(&self, user: Option<&str>, query: &str) -> Result<Option<Response<Bytes>>, Failure> {
        let real = self.token(self.asked(self.session)).await?;
        let of_another = user.is_some_and(|user| real.user.as_ref().is_none_or(|own| own.id != user));
        if of_another || (!real.by_v2 && self.limits().is_none()) {
            return Ok(None);
        }
        let projects: Vec<_> = self
            .listed()
            .await?
            .iter()
            .filter(|project| is_named(query, &project.name))
            .map(|project| {
                json!({
                    "id": project.id,
                    "name": project.name,
                    "domain_id": project.domain_id,
                    "description": "",
                    "enabled": true,
                    "is_domain": false,
                    "links": {"self": format!("{}/v3/projects/{}", self.base, project.id)},
                })
            })
            .collect();
        Ok(Some(self.list("projects", &projects)))
    }

    /// `GET /v3/auth/domains`, `/v3/auth/system`: the same for the other scopes.
    async fn other_scopes(&self, kind: &str) -> Result<Option<Response<Bytes>>, Failure> {
        let real = self.token(self.asked(self.session)).await?;
        if !real.by_v2 && self.limits().is_none() {
            return Ok(None);
        }
        // Identity v2.0 has neither, and clients that may ask for some projects may ask for nothing else.
        Ok(Some(self.list(kind, &[])))
    }

    fn list(&self, name: &str, items: &[Value]) -> Response<Bytes> {
        let place = format!("{}{}", self.base, self.route.rest);
        let links = json!({"self": place, "next": null, "previous": null});
        reply::json(StatusCode::OK, &json!({name: items, "links": links}))
    }

    /// `GET /v2.0/tenants`
    async fn tenants(&self, query: &str) -> Result<Option<Response<Bytes>>, Failure> {
        let real = self.token(self.asked(self.session)).await?;
        if real.by_v2 && self.limits().is_none() {
            return Ok(None);
        }
        let mut projects = self.listed().await?;
        if let Some(marker) = parameter(query, "marker") {
            let behind = projects.iter().position(|project| project.id == marker).map_or(0, |at| at + 1);
            projects.drain(..behind);
        }
        if let Some(limit) = parameter(query, "limit").and_then(|limit| limit.parse().ok()) {
            projects.truncate(limit);
        }
        let tenant = |project: &Named| documents::tenant(&json!({"id": project.id, "name": project.name}));
        let tenants: Vec<_> = projects.iter().map(tenant).collect();
        Ok(Some(reply::json(StatusCode::OK, &json!({"tenants": tenants, "tenants_links": []}))))
    }

    /// Swift's v1. A project that there is not is refused: what was meant for it must not end up in another.
    async fn log_in_to_swift(&self, trail: &mut Trail) -> Result<Response<Bytes>, Failure> {
        let (local, issued) = self.log_in(&request::read_swift(&self.parts.headers)?, trail).await?;
        let catalog = &issued.real.catalog;
        let cloud = self.cloud.of_token(&issued.real);
        let (region, identity) = (self.region.as_deref(), local.identity.as_deref());
        let found = keystone::catalog::choose(&cloud, catalog, "object-store", region)
            .map_err(|missing| no_endpoint(missing, region, &issued.real, identity))?;
        if let Some(identity) = identity.filter(|identity| !identity.rights.has_region(found.region)) {
            return Err(ProxyError::beyond(identity, "regions").into());
        }
        let url = found.url.to_string();
        let url = local.services(&issued.real).local(&url).unwrap_or(url);
        let mut answer = reply::empty(StatusCode::OK);
        insert(&mut answer, &X_STORAGE_URL, &url)?;
        insert(&mut answer, &X_AUTH_TOKEN, &issued.id)?;
        insert(&mut answer, &X_STORAGE_TOKEN, &issued.id)?;
        let left = issued.session.expires_at - self.now;
        answer.headers_mut().insert(X_AUTH_TOKEN_EXPIRES.clone(), left.into());
        Ok(answer)
    }
}

fn only(projects: &[String]) -> String {
    format!("Clients of this cloud may ask for these projects only: {}.", projects.join(", "))
}

/// Puts a text that keyway made into a field.
fn insert(answer: &mut Response<Bytes>, name: &HeaderName, value: &str) -> Result<(), ProxyError> {
    let value = HeaderValue::try_from(value).map_err(|_| ProxyError::Internal)?;
    answer.headers_mut().insert(name.clone(), value);
    Ok(())
}

/// The token that a request is about.
fn subject(headers: &HeaderMap) -> Option<&str> {
    headers.get(&X_SUBJECT_TOKEN)?.to_str().ok()
}

/// A parameter of a query, as it is written; empty if it has no value.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((found, value)) => (found == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

/// Whether a query wants what has this name, or whatever there is.
fn is_named(query: &str, name: &str) -> bool {
    parameter(query, "name").is_none_or(|wanted| {
        let wanted = wanted.replace('+', " ");
        percent_decode_str(&wanted).eq(name.bytes())
    })
}

fn allows_expired(query: &str) -> bool {
    let yes = ["1", "true", "yes", "on", "t", "y"];
    let value = parameter(query, "allow_expired").unwrap_or_default();
    yes.iter().any(|yes| value.eq_ignore_ascii_case(yes))
}
