"""What a program does with openstacksdk and a cloud that has images only; a name and a file come as arguments."""
import hashlib
import json
import sys

import openstack

name, file = sys.argv[1:3]
conn = openstack.connect()


def show(step, value):
    print(json.dumps([step, value], default=str), flush=True)


show("token", conn.auth_token[:6])
show("project, user", [conn.current_project_id, conn.current_user_id])
show("image", [conn.endpoint_for("image"), conn.image.get_endpoint_data().url])
show("images", [image.name for image in conn.image.images(limit=2)])
show("projects", [project.name for project in conn.identity.user_projects(conn.current_user_id)])
image = conn.image.create_image(name, filename=file, disk_format="raw", container_format="bare", wait=True)
try:
    show("image", [image.size, image.checksum, image.status, image.owner])
    content = conn.image.download_image(image, stream=True).iter_content(65536)
    show("image's bytes", hashlib.sha256(b"".join(content)).hexdigest())
finally:
    conn.image.delete_image(image)
