"""OpenID Connect: a provider of its own (provider/, a program of Node.js), and mod_auth_openidc before Keystone.

Who logs in by a program shows an access token, which Apache has the provider look at (RFC 7662); a browser that begins a
login at Keystone is sent to the provider. Either way Keystone hears who it is in headers, and its mapping lets the
provider's group `testers` in, as its own group of that name, which may use the projects demo and other.
"""
import json
import os
import shutil
import subprocess
from pathlib import Path

import federation

NODE = "/usr/bin/node"
# Debian's Node.js where there is none; another one would be in its way.
APT = ["libapache2-mod-auth-openidc"] + ([] if os.access(NODE, os.X_OK) and shutil.which("npm") else ["nodejs", "npm"])
MODULES = {"auth_openidc_module": "mod_auth_openidc.so"}
PORT = 5020
ISSUER = "http://127.0.0.1:%d" % PORT
NAME, PROTOCOL, MAPPING = "testbed-oidc", "openid", "testbed-oidc"
GROUP = "oidc-testers"              # Keystone's
PROJECTS = ["demo", "other"]
# Where a browser comes back to; Apache's module has that address.
REDIRECT = "http://127.0.0.1:%d/oidc/redirect" % federation.PORT
# Who may log in at the provider: `otto` shows a passcode as well, and nothing lets `eve` in at Keystone.
PEOPLE = {
    "ada": {"password": "secret", "groups": ["testers", "staff"]},
    "bob": {"password": "secret", "groups": ["testers"]},
    "otto": {"password": "secret", "groups": ["testers"], "totp": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"},
    "eve": {"password": "secret", "groups": ["strangers"]},
}
SOURCE = Path(__file__).resolve().parent / "provider"
FILES = ["package.json", "package-lock.json", "provider.mjs"]


def place(stack):
    return stack.HOME / "oidc"


def install(stack):
    """The provider beside its libraries, as they are pinned."""
    folder = place(stack)
    folder.mkdir(parents=True, exist_ok=True)
    lock, stamp = (SOURCE / "package-lock.json").read_text(), folder / "installed"
    for name in FILES:
        shutil.copyfile(SOURCE / name, folder / name)
    if stamp.exists() and stamp.read_text() == lock:
        return
    with open(stack.LOG / "npm.log", "ab") as log:
        done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder,
                              stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if done.returncode:
        stack.die("npm ci failed, see %s" % (stack.LOG / "npm.log"))
    stamp.write_text(lock)


def conf(stack):
    # By a program, and by a browser. What a module below finds out is a header that starts with OIDC-, and none that
    # somebody sends with that beginning gets past it.
    by_program = "/v3/OS-FEDERATION/identity_providers/%s/protocols/%s/auth" % (NAME, PROTOCOL)
    by_browser = ["/v3/auth/OS-FEDERATION/identity_providers/%s/protocols/%s/websso" % (NAME, PROTOCOL),
                  "/v3/auth/OS-FEDERATION/websso/%s" % PROTOCOL, "/oidc/redirect"]
    lines = ["OIDCProviderMetadataURL %s/.well-known/openid-configuration" % ISSUER,
             "OIDCClientID apache", "OIDCClientSecret %s" % stack.PW, "OIDCCryptoPassphrase %s" % stack.PW,
             "OIDCRedirectURI %s" % REDIRECT, "OIDCScope \"openid profile\"", "OIDCRemoteUserClaim sub", "OIDCPKCEMethod S256",
             "OIDCClaimPrefix OIDC-", "OIDCClaimDelimiter ;",
             "OIDCOAuthServerMetadataURL %s/.well-known/openid-configuration" % ISSUER,
             "OIDCOAuthClientID apache", "OIDCOAuthClientSecret %s" % stack.PW, "OIDCOAuthRemoteUserClaim sub",
             # Asked each time: what was revoked is good for nothing at once.
             "OIDCOAuthTokenIntrospectionInterval -1"]
    lines += ["<Location \"%s\">" % by_program, "  AuthType oauth20", "  Require valid-user", "</Location>"]
    for path in by_browser:
        lines += ["<Location \"%s\">" % path, "  AuthType openid-connect", "  Require valid-user", "</Location>"]
    return lines


def procs(stack):
    env = {"ISSUER": ISSUER, "SECRET": stack.PW, "PEOPLE": json.dumps(PEOPLE), "BROWSER_CLIENT": "apache",
           "BROWSER_REDIRECT": REDIRECT, "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    return {"oidc": ("federation", [NODE, str(place(stack) / "provider.mjs")], env,
                     ISSUER + "/.well-known/openid-configuration")}


def setup(stack):
    keystone = stack.Keystone()

    def put(path, kind, value):
        there = stack.call("GET", stack.KS + path, keystone.tok, ok=(200, 404))[0] == 200
        stack.call("PATCH" if there else "PUT", stack.KS + path, keystone.tok, {kind: value})

    group = keystone.ensure("groups", "group", GROUP, domain_id="default")
    role = keystone.find("roles", name="member")
    for name in PROJECTS:
        project = keystone.ensure("projects", "project", name, domain_id="default")
        path = "/projects/%s/groups/%s/roles/%s" % (project["id"], group["id"], role["id"])
        stack.call("PUT", stack.KS + path, keystone.tok)
    rules = [{"local": [{"user": {"name": "{0}"}, "group": {"id": group["id"]}}],
              "remote": [{"type": "HTTP_OIDC_SUB"}, {"type": "HTTP_OIDC_ISS", "any_one_of": [ISSUER]},
                         {"type": "HTTP_OIDC_GROUPS", "any_one_of": ["testers"]}]}]
    provider = "/OS-FEDERATION/identity_providers/" + NAME
    put("/OS-FEDERATION/mappings/" + MAPPING, "mapping", {"rules": rules})
    put(provider, "identity_provider", {"enabled": True, "remote_ids": [ISSUER]})
    put("%s/protocols/%s" % (provider, PROTOCOL), "protocol", {"mapping_id": MAPPING})
