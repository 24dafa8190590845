"""What a program does with python-novaclient as a library; a name comes as argument. One line of JSON for each step."""
import json
import os
import sys
import time

from keystoneauth1 import loading, session
from novaclient import client, exceptions

name = sys.argv[1]
auth = loading.get_plugin_loader("password").load_from_options(**{
    key: os.environ["OS_" + key.upper()] for key in ("auth_url", "username", "password", "user_domain_name", "project_name",
                                                     "project_domain_name")})
nova = client.Client("2.90", session=session.Session(auth=auth), region_name=os.environ["OS_REGION_NAME"])


def show(step, value):
    print(json.dumps([step, value]), flush=True)


show("versions", [version.to_dict() for version in nova.versions.list()])
show("current version", nova.versions.get_current().to_dict())
show("servers, all pages", [[s.name, s.links] for s in nova.servers.list(limit=-1)])
first = nova.servers.list(limit=2)
show("servers, two pages", [[s.name for s in first], [s.name for s in nova.servers.list(limit=2, marker=first[-1].id)]])
show("flavors", [f.to_dict() for f in nova.flavors.list()])
show("keypairs", [k.name for k in nova.keypairs.list(limit=7)])
show("images", [image.name for image in nova.glance.list()][:3] if hasattr(nova.glance, "list") else None)
show("image", nova.glance.find_image("testbed-raw").name)
show("network", nova.neutron.find_network("demo-net").name)
show("limits", sorted((limit.name, limit.value) for limit in nova.limits.get().absolute))
server = nova.servers.create(name, nova.glance.find_image("testbed-raw").id, "1",
                             nics=[{"net-id": nova.neutron.find_network("demo-net").id}])
try:
    end = time.monotonic() + 120
    while nova.servers.get(server.id).status == "BUILD" and time.monotonic() < end:
        time.sleep(1)
    server = nova.servers.get(server.id)
    show("server", [server.name, server.status, server.links])
    nova.servers.set_meta(server, {"colour": "blue"})
    show("metadata", nova.servers.get(server.id).metadata)
    show("updated", nova.servers.update(server, description="updated").description)
finally:
    server.delete()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            nova.servers.get(server.id)
            time.sleep(1)
        except exceptions.NotFound as gone:
            show("gone", gone.code)
            break
