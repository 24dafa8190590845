"""What a program does with python-neutronclient, a library only by now; a name comes as argument. Lines of JSON."""
import json
import os
import sys

from keystoneauth1 import loading, session
from neutronclient.common import exceptions
from neutronclient.v2_0 import client

name = sys.argv[1]
auth = loading.get_plugin_loader("password").load_from_options(**{
    key: os.environ["OS_" + key.upper()] for key in ("auth_url", "username", "password", "user_domain_name", "project_name",
                                                     "project_domain_name")})
neutron = client.Client(session=session.Session(auth=auth), region_name=os.environ["OS_REGION_NAME"])


def show(step, value):
    print(json.dumps([step, value]), flush=True)


# It follows the `next` links of the answers itself.
show("pages", [[n["name"] for n in page["networks"]]
               for page in neutron.list_networks(retrieve_all=False, limit=7, sort_key="name", sort_dir="asc")])
links = neutron.list_networks(retrieve_all=True, limit=7, sort_key="name", sort_dir="asc")
show("all pages", [n["name"] for n in links["networks"]])
show("extensions", sorted(e["alias"] for e in neutron.list_extensions()["extensions"]))
show("quota", neutron.show_quota(neutron.get_auth_info()["auth_tenant_id"]))
show("endpoint", neutron.get_auth_info()["endpoint_url"])
network = neutron.create_network({"network": {"name": name}})["network"]
try:
    subnet = neutron.create_subnet({"subnet": {"network_id": network["id"], "ip_version": 4, "cidr": "10.9.0.0/24"}})["subnet"]
    show("subnet", [subnet["cidr"], subnet["gateway_ip"], subnet["allocation_pools"]])
    port = neutron.create_port({"port": {"network_id": network["id"], "name": name,
                                         "fixed_ips": [{"ip_address": "10.9.0.9"}]}})["port"]
    show("port", [port["status"], port["fixed_ips"][0]["ip_address"]])
    show("updated", neutron.update_port(port["id"], {"port": {"description": "updated"}})["port"]["description"])
    try:
        neutron.delete_network(network["id"])
        show("refused", False)
    except exceptions.NetworkInUseClient as error:
        show("refused", [error.status_code, error.message])
    neutron.delete_port(port["id"])
finally:
    neutron.delete_network(network["id"])
try:
    neutron.show_network(network["id"])
except exceptions.NetworkNotFoundClient as error:
    show("gone", error.status_code)
