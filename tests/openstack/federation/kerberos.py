"""Kerberos: a realm of its own with MIT's KDC, and mod_auth_gssapi before Keystone.

Below /krb everything wants a ticket for HTTP/localhost, and Keystone has a user of its bearer's name, realm included
(auth_type v3kerberos: http://localhost:5010/krb/v3). The identity provider testbed-kerberos takes the same tickets, and its
mapping lets in whom Keystone does not know as well, but for one (v3fedkerb: http://localhost:5010/v3).
"""
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import federation

# The last two: keystoneauth with the same ticket, for comparison. Its libraries are compiled where pip installs them.
APT = ["krb5-kdc", "krb5-admin-server", "krb5-user", "libapache2-mod-auth-gssapi", "python3-keystoneauth1",
       "python3-requests-kerberos"]
MODULES = {"auth_gssapi_module": "mod_auth_gssapi.so"}
PORT = 5088
REALM = "TESTBED"
SERVICE = "HTTP/localhost"
AUTH_URL = "http://localhost:%d" % federation.PORT
# Federated logins go by Keystone's own method of this name: its method `kerberos` is the other login's.
NAME, PROTOCOL, MAPPING = "testbed-kerberos", "mapped", "testbed-kerberos"
GROUP = "kerberos-users"            # Keystone's
# Keystone knows `demo`, its mapping lets `kira` in too, and nobody knows `stranger`.
PRINCIPALS = ["demo", "kira", "stranger"]
# What Apache's workers read and write as `nobody`, who can't see into anybody's home.
PLACE = Path("/run/openstack-testbed-kerberos")


def folder(stack):
    return stack.DATA / "kerberos"


def install(stack):
    pass


def environment(stack):
    """Variables of whoever speaks Kerberos here; a ticket cache they bring themselves."""
    return {"KRB5_CONFIG": str(folder(stack) / "krb5.conf")}


def keytab(stack, principal):
    """Where the key of a principal lies, for who logs in without a password."""
    return folder(stack) / (principal.replace("/", "-") + ".keytab")


def conf(stack):
    nobody = pwd.getpwnam("nobody")
    PLACE.mkdir(mode=0o700, exist_ok=True)
    os.chown(PLACE, nobody.pw_uid, nobody.pw_gid)
    # Names are taken as they are written: what a resolver makes of localhost is nobody's principal.
    stack.write(folder(stack) / "krb5.conf", "\n".join([
        "[libdefaults]", "default_realm = " + REALM, "dns_lookup_kdc = false", "dns_lookup_realm = false",
        "dns_canonicalize_hostname = false", "rdns = false", "udp_preference_limit = 1",
        "[realms]", REALM + " = {", "kdc = 127.0.0.1:%d" % PORT, "}",
        "[domain_realm]", "localhost = " + REALM]) + "\n")
    stack.write(folder(stack) / "kdc.conf", "\n".join([
        "[kdcdefaults]", "kdc_listen = 127.0.0.1:%d" % PORT, "kdc_tcp_listen = 127.0.0.1:%d" % PORT,
        "[realms]", REALM + " = {", "database_name = %s/principal" % folder(stack),
        "key_stash_file = %s/stash" % folder(stack), "acl_file = %s/acl" % folder(stack), "max_life = 1h", "}"]) + "\n")
    os.chmod(folder(stack), 0o700)
    stack.once("kerberos-realm", lambda: realm(stack))
    shutil.copyfile(keytab(stack, SERVICE), PLACE / "http.keytab")
    os.chown(PLACE / "http.keytab", nobody.pw_uid, nobody.pw_gid)
    os.chmod(PLACE / "http.keytab", 0o600)
    wants_a_ticket = ["  AuthType GSSAPI", "  GssapiCredStore keytab:%s/http.keytab" % PLACE,
                      "  GssapiCredStore rcache:file2:%s/replays" % PLACE,
                      "  GssapiAllowedMech krb5", "  Require valid-user"]
    return (['<Location "/krb/">', '  ProxyPass "uwsgi://127.0.0.1:%d/"' % federation.KEYSTONE_PORT]
            + wants_a_ticket + ["</Location>"]
            + ['<Location "/v3/OS-FEDERATION/identity_providers/%s/protocols/%s/auth">' % (NAME, PROTOCOL)]
            + wants_a_ticket + ["</Location>"])


def tools(stack):
    """The environment of the programs that have the realm's database."""
    return stack.penv(KRB5_KDC_PROFILE=folder(stack) / "kdc.conf", **environment(stack))


def realm(stack):
    """The database, a principal for Apache and those of the checks, with their keys in files."""
    def run(*command):
        with open(stack.LOG / "setup.log", "ab") as log:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=tools(stack))
        if done.returncode:
            raise stack.Error("%s failed (%d), see %s" % (command[0], done.returncode, stack.LOG / "setup.log"))

    # What a broken attempt left behind is in the way of the next.
    for file in folder(stack).iterdir():
        if file.suffix != ".conf":
            file.unlink()
    run("/usr/sbin/kdb5_util", "create", "-s", "-r", REALM, "-P", stack.PW)
    for principal in [SERVICE] + PRINCIPALS:
        key = ["-randkey"] if principal == SERVICE else ["-pw", stack.PW]
        run("/usr/sbin/kadmin.local", "addprinc", *key, "%s@%s" % (principal, REALM))
        run("/usr/sbin/kadmin.local", "ktadd", "-norandkey", "-k", str(keytab(stack, principal)),
            "%s@%s" % (principal, REALM))


def procs(stack):
    env = {"KRB5_KDC_PROFILE": str(folder(stack) / "kdc.conf"), **environment(stack)}
    return {"krb5kdc": ("federation", ["/usr/sbin/krb5kdc", "-n"], env, "tcp:%d" % PORT)}


def setup(stack):
    keystone = stack.Keystone()

    def put(path, kind, value):
        there = stack.call("GET", stack.KS + path, keystone.tok, ok=(200, 404))[0] == 200
        stack.call("PATCH" if there else "PUT", stack.KS + path, keystone.tok, {kind: value})

    group = keystone.ensure("groups", "group", GROUP, domain_id="default")
    project = keystone.ensure("projects", "project", "demo", domain_id="default")
    role = keystone.find("roles", name="member")
    stack.call("PUT", "%s/projects/%s/groups/%s/roles/%s" % (stack.KS, project["id"], group["id"], role["id"]), keystone.tok)
    user = keystone.ensure("users", "user", "demo@" + REALM, domain_id="default")
    keystone.grant(user, project, role)
    rules = [{"local": [{"user": {"name": "{0}"}, "group": {"id": group["id"]}}],
              "remote": [{"type": "REMOTE_USER"}, {"type": "AUTH_TYPE", "any_one_of": ["Negotiate"]},
                         {"type": "REMOTE_USER", "not_any_of": ["stranger@" + REALM]}]}]
    provider = "/OS-FEDERATION/identity_providers/" + NAME
    put("/OS-FEDERATION/mappings/" + MAPPING, "mapping", {"rules": rules})
    put(provider, "identity_provider", {"enabled": True})
    put("%s/protocols/%s" % (provider, PROTOCOL), "protocol", {"mapping_id": MAPPING})
