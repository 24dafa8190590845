"""Apache before the testbed's Keystone, and the identity providers that its modules ask.

Each part is a module of this package with

    APT              Debian packages
    MODULES          Apache's modules: {name of the module: file below Apache's own folder of modules}
    install(stack)   what no Debian package brings; idempotent
    conf(stack)      writes what its programs read, and returns its lines of Apache's configuration
    procs(stack)     its programs: {name: (group, command, environment, health check)}, as `procs` of `stack`
    setup(stack)     what Keystone must know: identity provider, mapping, protocol; everything runs by then

and `stack` is the program of that name, whose functions and folders they use. Everything is on 127.0.0.1.
"""
PORT = 5010                         # Apache's, in front of Keystone
KEYSTONE_PORT = 5011                # where Keystone speaks uWSGI's protocol with it

from . import kerberos, oidc, saml  # noqa: E402 -- the parts use the ports

PARTS = [oidc, saml, kerberos]


def apt():
    # apache2-bin is the server without the service that Debian's apache2 starts.
    return ["apache2-bin"] + [package for part in PARTS for package in part.APT]


def keystone_conf(stack):
    """Sections of Keystone's configuration."""
    return {
        # Where a browser may be sent with a token: `keyway login` listens there.
        "federation": {"trusted_dashboard": "http://localhost:9990/auth/websso/",
                       "sso_callback_template": stack.VENV / "etc/keystone/sso_callback_template.html"},
        # Which variable says which identity provider it was.
        "openid": {"remote_id_attribute": "HTTP_OIDC_ISS"},
        "saml2": {"remote_id_attribute": "MELLON_IDP"},
    }


# What every server wants, and what hands a request to Keystone with what was found out about who asks.
MODULES = {
    "mpm_event_module": "mod_mpm_event.so",
    "authn_core_module": "mod_authn_core.so",
    "authz_core_module": "mod_authz_core.so",
    "authz_user_module": "mod_authz_user.so",
    "headers_module": "mod_headers.so",
    "proxy_module": "mod_proxy.so",
    "proxy_uwsgi_module": "mod_proxy_uwsgi.so",
}


def load(modules):
    return ["LoadModule %s /usr/lib/apache2/modules/%s" % item for item in modules.items()]


def name_of(part):
    return part.__name__.rsplit(".", 1)[-1]


def conf(stack):
    for part in PARTS:
        lines = load(part.MODULES) + part.conf(stack)
        stack.write(stack.ETC / "apache" / (name_of(part) + ".conf"), "\n".join(lines) + "\n")
    out = ["ServerRoot %s" % stack.DATA, "ServerName localhost:%d" % PORT, "PidFile %s/apache-own.pid" % stack.RUN,
           "Listen 127.0.0.1:%d" % PORT, "Timeout 60", "ErrorLog /dev/stderr", "LogLevel warn",
           "DefaultRuntimeDir %s" % stack.RUN, "User nobody", "Group nogroup"]
    out += load(MODULES)
    # Whoever comes this way is whom a module below says; what he says of himself is not believed.
    out += ["RequestHeader unset X-Remote-User",
            'ProxyPass "/" "uwsgi://127.0.0.1:%d/" retry=0' % KEYSTONE_PORT,
            "IncludeOptional %s/apache/*.conf" % stack.ETC]
    stack.write(stack.ETC / "apache.conf", "\n".join(out) + "\n")


def procs(stack):
    t = {"apache": ("federation", ["/usr/sbin/apache2", "-D", "FOREGROUND", "-f", str(stack.ETC / "apache.conf")], {},
                    "tcp:%d" % PORT)}
    for part in PARTS:
        t.update(part.procs(stack))
    return t


def setup(stack):
    for part in PARTS:
        part.setup(stack)
    stack.log("federation: %s" % (" ".join(map(name_of, PARTS)) or "Apache alone"))
