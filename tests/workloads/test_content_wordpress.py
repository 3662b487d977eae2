"""Content management: two WordPress instances on one uploads volume, and MariaDB, reached by a socket in another."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import urllib.error
from pathlib import Path

import debian_images
import pytest
from cli_helpers import Command
from debian_images import Recipe
from services import Service
from wordpress_site import Site, picture

from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

UPLOADS = "/var/lib/wordpress/wp-content/uploads"
WORDPRESS = Recipe(
    "wordpress",
    packages="wordpress apache2 libapache2-mod-php php-mysql mariadb-server",
    script=f"""
install -d -o mysql -g mysql /run/mysqld
mariadbd --user=mysql --skip-networking >/dev/null 2>&1 &
until mariadb-admin --silent ping 2>/dev/null; do sleep 0.1; done
mariadb -e "CREATE DATABASE wordpress; GRANT ALL ON wordpress.* TO wordpress@localhost IDENTIFIED BY 'secret'"
mariadb-admin shutdown
wait
install -d -o www-data -g www-data {UPLOADS}
cat >/etc/wordpress/config-default.php <<'END'
<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', 'secret');
define('DB_HOST', 'localhost:/run/mysqld/mysqld.sock');
define('DB_CHARSET', 'utf8mb4');
define('WP_CONTENT_DIR', '/var/lib/wordpress/wp-content');
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DISABLE_WP_CRON', true);
define('WP_SITEURL', 'http://' . $_SERVER['HTTP_HOST']);
define('WP_HOME', WP_SITEURL);
define('COOKIEHASH', 'lazarus'); // the instances have one database, and so one session
END
cat >/etc/apache2/ports.conf <<'END'
Listen 127.0.0.1:${{PORT}}
END
cat >/etc/apache2/sites-available/000-default.conf <<'END'
<VirtualHost *>
    DocumentRoot /usr/share/wordpress
    Alias /wp-content /var/lib/wordpress/wp-content
    <Directory /usr/share/wordpress>
        Options FollowSymLinks
        DirectoryIndex index.php
        Require all granted
    </Directory>
    <Directory /var/lib/wordpress/wp-content>
        Options FollowSymLinks
        Require all granted
    </Directory>
</VirtualHost>
END
""",
)
SERVE = ["sh", "-ec", ". /etc/apache2/envvars; rm -f $APACHE_PID_FILE; exec apache2 -DFOREGROUND"]
SOCKET = ("-v", "mysqld:/run/mysqld")


@pytest.fixture(scope="module")
def image(store_root: Path) -> str:
    with Store(store_root) as store:
        debian_images.load(store, WORDPRESS)
    return "wordpress:latest"


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody listens on."""
    with contextlib.ExitStack() as closing:
        sockets = [closing.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def test_two_instances(lazarus: Command, image: str) -> None:
    database = Service(
        lazarus, "database", image, ["mariadbd", "--user=mysql", "--skip-networking"],
        options=["-v", "db:/var/lib/mysql", *SOCKET], ready=["mariadb-admin", "--silent", "ping"],
    )  # fmt: skip
    ports = free_ports(2)
    instances = [
        Service(
            lazarus, f"instance{port}", image, SERVE,
            options=["--network", "host", "-e", f"PORT={port}", "-v", f"uploads:{UPLOADS}", *SOCKET],
        )
        for port in ports
    ]  # fmt: skip
    one, two = (Site(port) for port in ports)
    for service in (database, *instances):
        service.start()
    for site in (one, two):
        site.wait()
    one.install()
    for site in (one, two):
        site.log_in()

    pictures = [picture(1), picture(2)]
    paths = [one.upload("noise.png", pictures[0])]
    assert two.get(paths[0]) == pictures[0], "served by the other at once"
    paths.append(two.upload("noise.png", pictures[1]))
    assert paths[0] != paths[1], "the other has seen that the name is taken"
    assert one.get(paths[1]) == pictures[1]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        one.get(paths[1] + ".none")
    volume = json.loads(lazarus.ok("volume", "inspect", "uploads"))[0]["Mountpoint"]
    assert {f"/wp-content/uploads/{os.path.relpath(path, volume)}" for path in Path(volume).rglob("*.png")} >= set(
        paths
    )

    for service in (*instances, database):
        service.kill()
    database.start()
    for service in instances:
        service.replace()
        service.start()
    for site in (one, two):
        site.wait()
        assert [site.get(path) for path in paths] == pictures, "both are still there"
        assert site.media() == sorted(paths)
    for service in instances:
        assert UPLOADS not in lazarus.ok("diff", service.name), "what was uploaded is in the volume"
