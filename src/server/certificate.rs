//! What does a client's certificate call it?

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A name of a certificate's subject (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectName {
    /// `dns:build.example`, in lower case.
    Dns(String),
    /// `uri:spiffe://team.example/ada`.
    Uri(String),
    /// `email:ada@team.example`.
    Email(String),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Uri(name) => write!(f, "uri:{name}"),
            Self::Email(name) => write!(f, "email:{name}"),
        }
    }
}

/// The subject alternative names of a certificate, in its order; those of other kinds are left out. A subject's common
/// name counts for nothing: authorities check it less (RFC 6125, section 6.4.4).
pub fn names(certificate: &CertificateDer<'_>) -> Vec<SubjectName> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some((_, names))) = certificate.tbs_certificate().get_extension::<SubjectAltName>() else {
        return Vec::new();
    };
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(SubjectName::Dns(name.as_str().to_ascii_lowercase())),
        GeneralName::UniformResourceIdentifier(name) => Some(SubjectName::Uri(name.to_string())),
        GeneralName::Rfc822Name(name) => Some(SubjectName::Email(name.to_string())),
        _ => None,
    };
    names.0.iter().filter_map(name).collect()
}
