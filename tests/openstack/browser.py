"""As much of a browser as a login needs: it keeps cookies, follows redirects, and sends forms off with the headers that
say where they come from. No script runs; a page whose script would send its only form is sent off by [`walk`].
"""
import html.parser
import http.client
import http.cookiejar
import urllib.parse
import urllib.request

MOST = 20                               # pages of one login, redirects included


class Forms(html.parser.HTMLParser):
    """The forms of a page: [(method, action, {name: value})]. Buttons are not pressed."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.found.append(((attributes.get("method") or "get").upper(), attributes.get("action") or "", {}))
        elif tag == "input" and self.found and attributes.get("name") and attributes.get("type") != "submit":
            self.found[-1][2][attributes["name"]] = attributes.get("value") or ""


class Page:
    def __init__(self, url, status, text):
        self.url, self.status, self.text = url, status, text
        parser = Forms()
        parser.feed(text)
        self.forms = parser.found


class Browser:
    def __init__(self):
        self.cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(rfc2965=True))
        self.seen = []                  # where it was

    def open(self, url, form=None, coming_from=None):
        """Goes to `url`, by POST with a form; returns the page where that ends."""
        for _ in range(MOST):
            self.seen.append(url)
            parts = urllib.parse.urlsplit(url)
            body = urllib.parse.urlencode(form).encode() if form is not None else None
            request = urllib.request.Request(url, body)
            for name, value in headers(url, coming_from, body is not None).items():
                request.add_header(name, value)
            self.cookies.add_cookie_header(request)
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
            try:
                target = parts.path + ("?" + parts.query if parts.query else "") or "/"
                connection.request(request.get_method(), target, body, dict(request.header_items()))
                response = connection.getresponse()
                text = response.read().decode("utf-8", "replace")
            finally:
                connection.close()
            self.cookies.extract_cookies(response, request)
            if response.status not in (301, 302, 303, 307, 308):
                return Page(url, response.status, text)
            url, form = urllib.parse.urljoin(url, response.getheader("Location")), None
        raise AssertionError("the browser was sent from page to page: %s" % " ".join(self.seen[-MOST:]))

    def send(self, page, **fields):
        """Sends the first form of a page off."""
        method, action, known = page.forms[0]
        if method != "POST":
            raise AssertionError("a form of %s that is sent by %s" % (page.url, method))
        return self.open(urllib.parse.urljoin(page.url, action), {**known, **fields}, page.url)

    def walk(self, url, login, password, say_no=False):
        """Logs in where that is asked for, agrees to the rest (or to nothing), and returns the page at the end."""
        page = self.open(url)
        for _ in range(MOST):
            if not page.forms or page.status >= 400:
                return page
            fields = page.forms[0][2]
            if "login" in fields:
                page = self.send(page, login=login, password=password)
            elif say_no and "agree" in fields:
                return self.send(page, cancel="yes")
            else:
                page = self.send(page)
        raise AssertionError("there was another form each time: %s" % page.url)


def headers(url, coming_from, is_form):
    def origin(url):
        return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)[:2] + ("", "", ""))
    found = {"Accept": "text/html", "User-Agent": "testbed", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    if coming_from is None:
        return {**found, "Sec-Fetch-Site": "none"}
    same = origin(url) == origin(coming_from)
    found.update({"Sec-Fetch-Site": "same-origin" if same else "cross-site",
                  "Referer": coming_from if same else origin(coming_from) + "/"})
    if is_form:
        found.update({"Origin": origin(coming_from), "Content-Type": "application/x-www-form-urlencoded"})
    return found
