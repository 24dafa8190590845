#!/usr/bin/env python3
"""Which endpoint would keystoneauth choose?

One question a line on standard input, one answer a line on standard output, both JSON. A question has the token's
`catalog` and `project`, what is asked for (`service`, `interfaces`, `region`, `name`, `version`), and the `documents`
that services answer with, by URL. An answer has the `catalog` URL (null if there is none) and the `url` of the version
asked for, or the name of the `error` in its place. Nothing goes over a network.
"""

import json
import logging
import sys
import warnings

import requests
from keystoneauth1 import access, exceptions, session
from keystoneauth1.identity.access import AccessInfoPlugin

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


class Services(requests.adapters.BaseAdapter):
    """Answers from the question's documents."""

    def __init__(self, documents):
        super().__init__()
        self.documents = documents

    def send(self, request, **_):
        found = self.documents.get(request.url, {"status": 404, "body": "no such page"})
        response = requests.Response()
        response.request = request
        response.url = request.url
        response.status_code = found["status"]
        response._content = found["body"].encode()
        response.headers["Content-Type"] = "application/json"
        return response

    def close(self):
        pass


def answer(question):
    token = {
        "expires_at": "2100-01-01T00:00:00Z",
        "issued_at": "2000-01-01T00:00:00Z",
        "methods": ["password"],
        "user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "d"}},
        "project": {"id": question["project"], "name": "p", "domain": {"id": "d", "name": "d"}},
        "catalog": question["catalog"],
    }
    services = Services(question["documents"])
    http = requests.Session()
    http.mount("http://", services)
    http.mount("https://", services)
    info = access.AccessInfoV3({"token": token}, auth_token="t")
    asked = {
        "service_type": question["service"],
        "interface": question["interfaces"],
        "region_name": question["region"],
        "service_name": question["name"],
    }
    try:
        catalog = info.service_catalog.url_for(**asked)
    # The second one is what it calls a mistake of its own: several types fit, and none has an endpoint.
    except (exceptions.EndpointNotFound, ValueError):
        return {"catalog": None, "error": "EndpointNotFound"}
    plugin = AccessInfoPlugin(info)
    keystone = session.Session(auth=plugin, session=http)
    try:
        url = plugin.get_endpoint(keystone, version=question["version"], **asked)
    except exceptions.ClientException as error:
        return {"catalog": catalog, "error": type(error).__name__}
    return {"catalog": catalog, "url": url} if url else {"catalog": catalog, "error": "no such version"}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
