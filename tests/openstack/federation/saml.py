"""SAML 2.0 without a browser (profile ECP): mod_auth_mellon before Keystone, and an identity provider of pysaml2's.

The two know each other by metadata with keys that are made here. The user's name is `grace`; the mapping makes her a member
of a group with a role on the projects demo and other.
"""
import subprocess
import urllib.parse
from pathlib import Path

PORT = 5030                         # the identity provider's
IDENTITY_PROVIDER, PROTOCOL = "saml-idp", "saml2"
USER, PASSWORD = "grace", 'the right: password <&"'
APT = ["libapache2-mod-auth-mellon", "xmlsec1", "openssl"]
MODULES = {"auth_mellon_module": "mod_auth_mellon.so"}

DOOR = "/v3/OS-FEDERATION/identity_providers/%s/protocols/%s/auth" % (IDENTITY_PROVIDER, PROTOCOL)
ENTITY = "http://127.0.0.1:%d/metadata" % PORT          # the identity provider's name of itself
ECP = "http://127.0.0.1:%d/sso/ecp" % PORT


def folder(stack):
    return stack.HOME / "saml"


# mod_auth_mellon reads this file anew in Apache's workers, and those are nobody, who sees nothing below /root.
FOR_WORKERS = Path("/run/openstack-testbed/saml-idp.xml")


def sp_base():
    import federation
    return "http://127.0.0.1:%d%s/mellon" % (federation.PORT, DOOR)


METADATA = """<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" entityID="%(entity)s">
  <%(role)sDescriptor %(wants)s protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">
    <KeyDescriptor use="signing"><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><X509Data><X509Certificate>%(certificate)s</X509Certificate></X509Data></KeyInfo></KeyDescriptor>
    <NameIDFormat>urn:oasis:names:tc:SAML:2.0:nameid-format:persistent</NameIDFormat>
%(services)s
  </%(role)sDescriptor>
</EntityDescriptor>
"""


def metadata(certificate, role, entity, wants, services):
    base64 = "".join(line for line in certificate.read_text().splitlines() if "CERTIFICATE" not in line)
    return METADATA % dict(entity=entity, role=role, wants=wants, certificate=base64,
                           services="\n".join("    <%s/>" % service for service in services))


def install(stack):
    """Nothing: it may run before the Debian packages are there, and openssl is one."""


def keys(at):
    at.mkdir(parents=True, exist_ok=True)
    for name in ("idp", "sp"):
        if not (at / (name + ".crt")).exists():
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=" + name,
                            "-keyout", at / (name + ".key"), "-out", at / (name + ".crt")],
                           check=True, stdin=subprocess.DEVNULL, capture_output=True)


def conf(stack):
    at = folder(stack)
    keys(at)
    binding = 'Binding="urn:oasis:names:tc:SAML:2.0:bindings:%s"'
    stack.write(at / "sp.xml", metadata(at / "sp.crt", "SPSSO", sp_base() + "/metadata", 'AuthnRequestsSigned="true"', [
        'AssertionConsumerService index="0" isDefault="true" %s Location="%s/postResponse"' % (binding % "HTTP-POST", sp_base()),
        'AssertionConsumerService index="1" %s Location="%s/paosResponse"' % (binding % "PAOS", sp_base())]))
    stack.write(FOR_WORKERS, metadata(at / "idp.crt", "IDPSSO", ENTITY, 'WantAuthnRequestsSigned="true"', [
        'SingleSignOnService %s Location="%s"' % (binding % "SOAP", ECP)]))
    return ["<Location \"%s\">" % DOOR,
            "  AuthType Mellon", "  MellonEnable auth", "  Require valid-user",
            "  MellonSPPrivateKeyFile %s/sp.key" % at, "  MellonSPCertFile %s/sp.crt" % at,
            "  MellonSPMetadataFile %s/sp.xml" % at, "  MellonIdPMetadataFile %s" % FOR_WORKERS,
            "  MellonSetEnv uid urn:mace:dir:attribute-def:uid",
            "  MellonEndpointPath %s/mellon" % DOOR, "  MellonIdP IDP", "  MellonSignatureMethod rsa-sha256",
            "</Location>"]


def procs(stack):
    command = [str(stack.BIN / "python"), str(Path(__file__).with_name("saml_idp.py")), str(folder(stack)), str(PORT)]
    return {"saml-idp": ("federation", command, {}, "tcp:%d" % PORT)}


def setup(stack):
    keystone = stack.Keystone()
    federation = stack.KS + "/OS-FEDERATION"
    group = keystone.ensure("groups", "group", "saml-users", domain_id="default")
    role = keystone.find("roles", name="member")
    for name in ("demo", "other"):
        project = keystone.find("projects", name=name, domain_id="default")
        stack.call("PUT", "%s/projects/%s/groups/%s/roles/%s" % (stack.KS, project["id"], group["id"], role["id"]), keystone.tok)
    rules = [{"local": [{"user": {"name": "{0}"}, "group": {"id": group["id"]}}], "remote": [{"type": "MELLON_uid"}]}]

    def put(path, one, body):
        """Made, or made as it should be."""
        url = federation + path
        try:
            stack.call("GET", url, keystone.tok)
            verb = "PATCH"
        except stack.Error:
            verb = "PUT"
        stack.call(verb, url, keystone.tok, {one: body})

    provider = "/identity_providers/" + urllib.parse.quote(IDENTITY_PROVIDER)
    put("/mappings/saml", "mapping", {"rules": rules})
    put(provider, "identity_provider", {"enabled": True, "remote_ids": [ENTITY]})
    put("%s/protocols/%s" % (provider, PROTOCOL), "protocol", {"mapping_id": "saml"})
