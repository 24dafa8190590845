"""What a program does with openstacksdk; its name and a file come as arguments. Prints one line of JSON for each step."""
import hashlib
import json
import os
import sys

import openstack
from openstack import exceptions

name, file = sys.argv[1:3]
conn = openstack.connect()


def show(step, value):
    print(json.dumps([step, value], default=str), flush=True)


def sha256(chunks):
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


show("token", conn.auth_token[:6])
show("project, user", [conn.current_project_id, conn.current_user_id])
for kind in ("compute", "image", "network", "block_storage", "object_store", "orchestration", "placement", "identity"):
    proxy = getattr(conn, kind)
    data = proxy.get_endpoint_data()
    show(kind, [conn.endpoint_for(kind.replace("_", "-")), data.url, data.api_version, data.min_microversion, data.max_microversion])

# Pages, by the links of each service.
show("servers", [s.name for s in conn.compute.servers(details=False, limit=1)])
show("servers with details", [[s.name, s.status, s.links] for s in conn.compute.servers(limit=2)])
show("flavors", [[f.name, f.ram] for f in conn.compute.flavors(limit=2)])
show("keypairs", [k.name for k in conn.compute.keypairs()])
show("images", [i.name for i in conn.image.images(limit=7)])
show("networks", sorted(n.name for n in conn.network.networks(limit=7)))
show("volumes", [v.name for v in conn.block_storage.volumes(limit=7)])
show("containers", [c.name for c in conn.object_store.containers(limit=7)])
show("objects", [o.name for o in conn.object_store.objects("box-00", limit=7)])
show("stacks", [s.name for s in conn.orchestration.stacks(limit=1)])
show("projects", [p.name for p in conn.identity.user_projects(conn.current_user_id)])
del os.environ["OS_REGION_NAME"]        # where it is set, no other region is known
show("another region", [i.name for i in openstack.connect(region_name="RegionTwo").image.images(limit=2)])

# A microversion, and what a service refuses.
server = next(conn.compute.servers(details=False))
show("microversion", sorted(conn.compute.get("/servers/%s" % server.id, microversion="2.96").json()["server"]))
for call in (lambda: conn.compute.get_server("none-such"), lambda: list(conn.identity.users()),
             lambda: conn.network.get_network("none-such")):
    try:
        call()
        show("refused", False)
    except exceptions.HttpException as error:
        show("refused", [type(error).__name__, error.status_code, error.details])

# Things made and removed.
network = conn.network.create_network(name=name)
try:
    show("network", [network.name, network.status, conn.network.get_network(network.id).project_id])
finally:
    conn.network.delete_network(network)
server = conn.compute.create_server(name=name, image_id=conn.image.find_image("testbed-raw").id, flavor_id="1",
                                    networks=[{"uuid": conn.network.find_network("demo-net").id}])
try:
    server = conn.compute.wait_for_server(server, wait=120, interval=1)
    show("server", [server.name, server.status, server.links])
    conn.compute.set_server_metadata(server, colour="blue")
    show("metadata", conn.compute.get_server_metadata(server).metadata)
finally:
    conn.compute.delete_server(server)
    conn.compute.wait_for_delete(server, wait=120, interval=1)

# Bodies: an image as a stream, an object in segments.
image = conn.image.create_image(name, filename=file, disk_format="raw", container_format="bare", wait=True)
try:
    show("image", [image.size, image.checksum, image.status])
    show("image's bytes", sha256(conn.image.download_image(image, stream=True).iter_content(65536)))
finally:
    conn.image.delete_image(image)
conn.object_store.create_container(name)
try:
    conn.create_object(name, "segmented", filename=file, segment_size=1 << 20, use_slo=True)
    head = conn.object_store.get_object_metadata("segmented", container=name)
    show("object", [head.content_length, head.is_static_large_object])
    show("object's bytes", sha256(conn.object_store.stream_object("segmented", container=name)))
finally:
    for container in {c.name for c in conn.object_store.containers()} & {name, name + "_segments"}:
        for item in list(conn.object_store.objects(container)):
            conn.object_store.delete_object(item.name, container=container)
        conn.object_store.delete_container(container)

# A token that is thrown away is followed by another login.
conn.session.auth.invalidate()
show("after another login", conn.compute.find_flavor("m1.tiny").ram)
