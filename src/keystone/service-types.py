#!/usr/bin/env python3
"""Writes service-types.json, which is beside this file, anew.

    src/keystone/service-types.py            with the version of os-service-types that is named below
    src/keystone/service-types.py 1.10.0     with another one; write it down here then

The official service types and their aliases are the Service Types Authority's. Its data comes with the Python
package os-service-types (Apache-2.0), of which nothing but that file is read, and of it nothing but names.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

VERSION = "1.9.0"
DATA = "os_service_types/data/service-types.json"


def main():
    version = sys.argv[1] if len(sys.argv) > 1 else VERSION
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, f"os-service-types=={version}"], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = json.loads(archive.read(DATA))
    head = {
        "source": f"os-service-types {version}: {DATA}, Apache-2.0",
        "version": data["version"],
        "sha": data["sha"],
        "refreshed_by": "src/keystone/service-types.py",
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    services = [
        "    " + json.dumps({"type": service["service_type"], "project": service["project"], "aliases": service.get("aliases", [])})
        for service in data["services"]
    ]
    lines.append('  "services": [\n' + ",\n".join(services) + "\n  ]")
    target = pathlib.Path(__file__).with_name("service-types.json")
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{target}: {len(services)} services of os-service-types {version}")


if __name__ == "__main__":
    main()
