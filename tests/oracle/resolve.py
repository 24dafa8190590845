"""What does openstacksdk make of a configuration? One JSON object a line comes in, one goes out.

In: `env` (all of the environment), `cwd`, `etc` (what stands for /etc). The cloud is the one that openstacksdk chooses;
OS_REGION_NAME chooses the region of a cloud that has a name, as it does for the `openstack` command.

Out: either `error`, or `cloud` (its name), `config` (what it resolved), `options` (what its login takes), and what
openstacksdk's own accessors say: `region`, `interface`, `verify`, `cert`.
"""

import copy
import importlib
import json
import os
import sys
import warnings

from keystoneauth1 import loading
from openstack.config import loader, vendors

warnings.simplefilter("ignore")
BUNDLED = copy.deepcopy(vendors._get_vendor_defaults())


def files(base, etc):
    directories = []
    for directory in loader.CONFIG_SEARCH_PATH:
        if directory == "/etc" or directory.startswith("/etc/"):
            directory = etc + directory.removeprefix("/etc")
        directories.append(directory)
    return [os.path.join(d, base + s) for d in directories for s in (".yaml", ".yml", ".json")]


def resolve(case):
    os.environ.clear()
    os.environ.update(case["env"])
    os.chdir(case["cwd"])
    # The search path is made when the module is.
    importlib.reload(loader)
    vendors._VENDOR_DEFAULTS.clear()
    vendors._VENDOR_DEFAULTS.update(copy.deepcopy(BUNDLED))

    class Config(loader.OpenStackConfig):
        """Goes on where the options are no login: what they are is the question here."""

        def _get_auth_loader(self, config):
            plugin = super()._get_auth_loader(config)
            load = plugin.load_from_options

            def try_to_load(**options):
                try:
                    return load(**options)
                except Exception:
                    return None

            plugin.load_from_options = try_to_load
            return plugin

    config = Config(
        config_files=files("clouds", case["etc"]),
        secure_files=files("secure", case["etc"]),
        vendor_files=files("clouds-public", case["etc"]),
    )
    # A cloud of nothing but defaults is no cloud.
    if config.default_cloud in (None, "defaults"):
        raise ValueError("no cloud is chosen")
    arguments = {}
    region = os.environ.get("OS_REGION_NAME")
    if region and config.default_cloud != config.envvar_key:
        arguments["region_name"] = region
    cloud = config.get_one(**arguments)
    plugin = loading.get_plugin_loader(cloud.config["auth_type"])
    verify, cert = cloud.get_requests_verify_args()
    return {
        "cloud": cloud.name,
        "config": cloud.config,
        "options": [option.dest for option in plugin.get_options()],
        "region": cloud.get_region_name(),
        "interface": cloud.get_interface(),
        "verify": verify,
        "cert": cert,
    }


def main():
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    every = sorted({o.dest for name in loading.get_available_plugin_names() for o in options(name)})
    print(json.dumps(every), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = resolve(json.loads(line))
        except Exception as error:  # whatever openstacksdk raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)


def options(name):
    try:
        return loading.get_plugin_loader(name).get_options()
    except Exception:  # one whose library is not there
        return []


if __name__ == "__main__":
    main()
