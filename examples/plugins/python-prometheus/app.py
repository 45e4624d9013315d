"""The collector `prometheus`: what it does is in scraper.py."""

from componentize_py_types import Err
from wit_world.imports import http

from scraper import Scraper
from telltale import Config, Retry, collector


def get(url):
    try:
        response = http.fetch(http.Request("GET", url, [], None, 0, 0))
    except Err as error:
        if isinstance(error.value, (http.Error_Denied, http.Error_Invalid)):
            raise Config(error.value.value)
        raise Retry(f"{url}: {getattr(error.value, 'value', 'it took too long')}")
    return response.status, response.body


Collect = collector(Scraper(get))
