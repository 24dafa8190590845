//! The links of a service's answer, made good for the client that gets it.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_LOCATION, HeaderName, LINK, LOCATION};
use http::{Method, StatusCode};
use http_body::Body as _;

use super::Gateway;
use super::held::{Held, TooMuch};
use crate::error::ProxyError;
use crate::keystone::service_type;
use crate::proxy::Answer;
use crate::proxy::links::{self, Bodies, Mapping, There};
use crate::route::Route;
use crate::upstream;

impl Gateway {
    /// Which bodies of a service may hold links; `None` where the operator wants links as they are.
    /// Where one endpoint serves every service (`*`), the service is what the route says.
    ///
    /// # Errors
    /// The route's service is not readable.
    pub(super) fn links(
        &self,
        cloud: usize,
        official: &str,
        route: &Route<'_>,
    ) -> Result<Option<Bodies>, ProxyError> {
        let asked;
        let service = match official {
            "*" => {
                asked = route.service()?;
                service_type::canonical(&asked)
            }
            official => official.into(),
        };
        let is_raw =
            self.shared.raw_links[cloud].iter().any(|raw| raw == "*" || service_type::same(raw, &service));
        Ok((!is_raw).then(|| Bodies::of(&service)))
    }

    /// Whether it is plain at once that an answer stays as it is: no field has a link, and all of the body is
    /// here and names nothing that could be one.
    pub(super) fn has_no_links(
        &self,
        answer: &Answer,
        method: &Method,
        rooted: bool,
        there: &There<'_>,
    ) -> bool {
        let response = &answer.response;
        if *method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED {
            return false;
        }
        let is_link = |name: &HeaderName| matches!(*name, LOCATION | CONTENT_LOCATION | LINK);
        if response.headers().keys().any(is_link) {
            return false;
        }
        response.body().whole().is_some_and(|whole| {
            whole.len() <= self.held.per_request() && !links::may_hold_links(whole, rooted, there)
        })
    }

    /// Maps the links in an answer's fields, and in its body if all of it is here. Tells whether the
    /// body has to be [held](Gateway::hold) first.
    pub(super) fn localize(
        &self,
        answer: &mut Answer,
        method: &Method,
        bodies: Bodies,
        mapping: &Mapping<'_>,
    ) -> bool {
        let most = self.held.per_request();
        let response = &mut answer.response;
        if !links::localize(response, bodies, mapping) || most == 0 {
            return false;
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            links::forget_bytes(response.headers_mut());
            return false;
        }
        if method == Method::HEAD {
            let announced = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
            let announced = announced.and_then(|length| length.parse::<usize>().ok());
            // Of a larger one GET would change nothing.
            if announced.is_none_or(|length| length <= most) {
                links::forget_length(response.headers_mut());
            }
            return false;
        }
        if let Some(whole) = response.body().whole() {
            if whole.len() > most {
                self.count_unmapped(TooMuch::Size);
            } else if let Some(mapped) = links::document(whole, bodies, mapping) {
                links::forget_bytes(response.headers_mut());
                response.headers_mut().insert(CONTENT_LENGTH, mapped.len().into());
                *response.body_mut() = upstream::Body::full(Bytes::from(mapped));
            }
            return false;
        }
        if response.body().is_end_stream() {
            return false;
        }
        let fits = response.body().size_hint().exact().is_none_or(|length| length <= most as u64);
        if !fits {
            self.count_unmapped(TooMuch::Size);
        }
        fits
    }

    /// Reads the body of an answer, and maps the links in it.
    pub(super) async fn hold(&self, answer: &mut Answer, bodies: Bodies, mapping: &Mapping<'_>) -> Box<Held> {
        let response = &mut answer.response;
        let body = std::mem::replace(response.body_mut(), upstream::Body::full(Bytes::new()));
        let (mut held, why) = Held::read(body, &self.held).await;
        if let Some(why) = why {
            self.count_unmapped(why);
        }
        if let Some(mapped) = held.whole().and_then(|whole| {
            let may = links::may_hold_links(whole, mapping.here.rooted, &mapping.there);
            may.then(|| links::document(whole, bodies, mapping))?
        }) {
            if held.replace(mapped) {
                let fields = response.headers_mut();
                links::forget_bytes(fields);
                match held.length() {
                    Some(length) if fields.contains_key(CONTENT_LENGTH) => {
                        fields.insert(CONTENT_LENGTH, length.into());
                    }
                    _ => drop(fields.remove(CONTENT_LENGTH)),
                }
            } else {
                self.count_unmapped(TooMuch::Memory);
            }
        }
        Box::new(held)
    }

    #[cold]
    fn count_unmapped(&self, why: TooMuch) {
        self.shared.metrics.links_unmapped.with_label_values(&[why.as_str()]).inc();
    }
}
