"""A SAML 2.0 identity provider for clients without a browser (profile ECP), for the testbed: pysaml2 does all that is SAML.

    saml_idp.py FOLDER PORT

FOLDER has idp.key, idp.crt and sp.xml, the service provider's metadata. One user, known by HTTP's Basic authentication.
POST /sso/ecp is the service, GET /metadata its description, GET /counts says how often which answer was given.
"""
import base64
import hmac
import http.server
import json
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from lxml import etree
from saml2 import BINDING_HTTP_POST, BINDING_PAOS, BINDING_SOAP
from saml2.authn_context import PASSWORDPROTECTEDTRANSPORT
from saml2.config import IdPConfig
from saml2.metadata import entity_descriptor
from saml2.saml import NAME_FORMAT_BASIC, NAMEID_FORMAT_PERSISTENT
from saml2.server import Server

USER, PASSWORD, MAIL = "grace", 'the right: password <&"', "grace@idp.example"
FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
BASE = "http://127.0.0.1:%d" % PORT
COUNTS = {}
ENVELOPE = """<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Header>\
<ecp:Response xmlns:ecp="urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp" S:mustUnderstand="1" \
S:actor="http://schemas.xmlsoap.org/soap/actor/next" AssertionConsumerServiceURL="%s"/>\
</S:Header><S:Body>%s</S:Body></S:Envelope>"""

CONFIG = IdPConfig().load({
    "entityid": BASE + "/metadata",
    "xmlsec_binary": "/usr/bin/xmlsec1",
    "service": {"idp": {
        "endpoints": {"single_sign_on_service": [(BASE + "/sso/ecp", BINDING_SOAP)]},
        "policy": {"default": {"lifetime": {"minutes": 5}, "attribute_restrictions": None, "name_form": NAME_FORMAT_BASIC}},
        "name_id_format": [NAMEID_FORMAT_PERSISTENT],
        "want_authn_requests_signed": True,
    }},
    "key_file": str(FOLDER / "idp.key"),
    "cert_file": str(FOLDER / "idp.crt"),
    "metadata": {"local": [str(FOLDER / "sp.xml")]},
    "signing_algorithm": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
    "digest_algorithm": "http://www.w3.org/2001/04/xmlenc#sha256",
})
SERVER = Server(config=CONFIG)


def is_user(authorization):
    scheme, _, shown = authorization.partition(" ")
    expected = base64.b64encode(("%s:%s" % (USER, PASSWORD)).encode())
    return scheme == "Basic" and hmac.compare_digest(shown.strip().encode(), expected)


def log_in(envelope):
    """The SOAP envelope with the signed answer to the envelope with a request."""
    # As text with its own prefixes: pysaml2's reading of envelopes renames them, which no signature survives.
    request = etree.fromstring(envelope).find(".//{urn:oasis:names:tc:SAML:2.0:protocol}AuthnRequest")
    request = SERVER.parse_authn_request(base64.b64encode(etree.tostring(request)), BINDING_HTTP_POST).message
    args = SERVER.response_args(request, [BINDING_PAOS])
    response = str(SERVER.create_authn_response(
        {"uid": USER, "mail": MAIL}, args["in_response_to"], args["destination"], args["sp_entity_id"], args["name_id_policy"],
        userid=USER, sign_assertion=True, sign_response=True,
        authn={"class_ref": PASSWORDPROTECTEDTRANSPORT, "authn_auth": BASE}))
    return ENVELOPE % (escape(args["destination"], {'"': "&quot;"}), re.sub(r"^<\?xml.*?\?>\s*", "", response))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, kind, text, *headers):
        COUNTS[status] = COUNTS.get(status, 0) + (self.command == "POST")
        body = text.encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/metadata":
            return self.reply(200, "application/samlmetadata+xml", str(entity_descriptor(CONFIG)))
        if self.path == "/counts":
            return self.reply(200, "application/json", json.dumps(COUNTS))
        self.reply(404, "text/plain", "there is /metadata, /counts and /sso/ecp\n")

    def do_POST(self):
        envelope = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))
        if self.path != "/sso/ecp":
            return self.reply(404, "text/plain", "there is /sso/ecp\n")
        if not is_user(self.headers.get("Authorization", "")):
            return self.reply(401, "text/plain", "who are you?\n", ("WWW-Authenticate", 'Basic realm="idp"'))
        try:
            self.reply(200, "text/xml", log_in(envelope))
        except Exception as error:          # whatever is wrong with the request, its sender hears of it
            self.log_error("%r", error)
            self.reply(500, "text/xml", '<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Body><S:Fault>'
                       "<faultcode>S:Client</faultcode><faultstring>%s</faultstring></S:Fault></S:Body></S:Envelope>"
                       % escape(repr(error)))


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
