"""What a program does with python-keystoneclient, in the version of Identity that it is told: 2.0 or 3. Lines of JSON.

Both versions print the same of the same cloud.
"""
import json
import os
import sys

from keystoneauth1 import session
from keystoneauth1.identity import v2, v3
from keystoneclient.v2_0 import client as client_v2
from keystoneclient.v3 import client as client_v3

version, url = sys.argv[1:3]
env = {key: os.environ["OS_" + key] for key in ("USERNAME", "PASSWORD", "PROJECT_NAME", "REGION_NAME")}
if version == "2.0":
    auth = v2.Password(url, env["USERNAME"], env["PASSWORD"], tenant_name=env["PROJECT_NAME"])
else:
    auth = v3.Password(url, username=env["USERNAME"], password=env["PASSWORD"], user_domain_name="Default",
                       project_name=env["PROJECT_NAME"], project_domain_name="Default")
known = session.Session(auth=auth)


def show(step, value):
    print(json.dumps([step, value]), flush=True)


access = auth.get_access(known)
show("token", access.auth_token[:6])
show("who", [access.project_name, access.project_id, access.user_id, access.username, sorted(access.role_names)])
def endpoint(kind, interface, region):
    """Identity is listed with the version that was asked, or with none: the rest of its URL is what both have."""
    url = access.service_catalog.url_for(kind, interface, region)
    return url.removesuffix("/v3").removesuffix("/v2.0") if kind == "identity" else url


show("endpoints", sorted([kind, region, interface, endpoint(kind, interface, region)]
                         for kind, found in access.service_catalog.get_endpoints().items()
                         for region, interface in {(e.get("region"), i) for e in found for i in ("public", "internal")}))
if version == "2.0":
    keystone = client_v2.Client(session=known, endpoint_override=url)
    show("projects", sorted([p.id, p.name] for p in keystone.tenants.list()))
else:
    keystone = client_v3.Client(session=known, endpoint_override=url)
    show("projects", sorted([p.id, p.name] for p in keystone.auth.projects()))
service, path = sys.argv[3:5]
answer = known.get(path, endpoint_filter={"service_type": service, "region_name": env["REGION_NAME"]})
show(path, sorted(item["name"] for item in answer.json()[path.strip("/").split("/")[-1]]))
