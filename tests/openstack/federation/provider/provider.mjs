// The testbed's OpenID Connect provider: oidc-provider with people who have passwords, one of whom needs a one-time
// passcode as well, and with the password grant, which that library does not have. Everything is forgotten when it ends.
import * as crypto from 'node:crypto';
import * as http from 'node:http';

import Provider, { errors } from 'oidc-provider';

const { ISSUER, SECRET, PEOPLE, BROWSER_CLIENT, BROWSER_REDIRECT } = process.env;
const { hostname, port } = new URL(ISSUER);
// {"ada": {"password": "secret", "groups": ["testers"], "totp": "base32"}}
const people = JSON.parse(PEOPLE);

const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig' };

const grants = {
  code: 'authorization_code',
  device: 'urn:ietf:params:oauth:grant-type:device_code',
  refresh: 'refresh_token',
  client: 'client_credentials',
  password: 'password',
};

// Loopback addresses of a native client may have any port (RFC 8252, section 7.3).
const native = {
  application_type: 'native',
  redirect_uris: ['http://localhost/callback', 'http://127.0.0.1/callback'],
  response_types: ['code'],
};

const provider = new Provider(ISSUER, {
  jwks: { keys: [key] },
  clients: [
    { // Apache's, for browsers and to look at tokens.
      client_id: BROWSER_CLIENT,
      client_secret: SECRET,
      redirect_uris: [BROWSER_REDIRECT],
    },
    { // With a secret; it may do everything, also log in as itself.
      ...native,
      client_id: 'robot',
      client_secret: SECRET,
      grant_types: Object.values(grants),
    },
    { // Without one, for people.
      ...native,
      client_id: 'cli',
      token_endpoint_auth_method: 'none',
      grant_types: [grants.code, grants.device, grants.refresh],
    },
  ],
  findAccount: (ctx, id) => people[id] && {
    accountId: id,
    claims: () => ({ sub: id, name: id, groups: people[id].groups.join(';') }),
  },
  claims: { openid: ['sub', 'name', 'groups'] },
  conformIdTokenClaims: false,
  // Whoever looks at a token learns whose it is. A client that logs in for itself is somebody, too.
  extraTokenClaims: (ctx, token) => {
    const person = people[token.accountId];
    return person
      ? { name: token.accountId, groups: person.groups.join(';') }
      : { sub: token.clientId, name: token.clientId, groups: 'testers' };
  },
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    devInteractions: { enabled: false },
    rpInitiatedLogout: { enabled: false },
    userinfo: { enabled: true },
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  rotateRefreshToken: true,
  scopes: ['openid', 'profile', 'offline_access'],
  ttl: { AccessToken: 600, ClientCredentials: 600, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600, IdToken: 600 },
  cookies: { keys: [crypto.randomBytes(32).toString('hex')] },
  renderError: (ctx, out) => {
    ctx.type = 'text/plain';
    ctx.body = `${out.error}: ${out.error_description}`;
  },
});

provider.registerGrantType(grants.password, async (ctx, next) => {
  const { client, params } = ctx.oidc;
  if (!signsIn(params.username, params.password)) {
    throw new errors.InvalidGrant('wrong user name or password');
  }
  const { totp } = people[params.username];
  if (totp && params.totp !== passcode(totp)) {
    throw new errors.InvalidGrant('a one-time passcode is needed');
  }
  const grant = new provider.Grant({ clientId: client.clientId, accountId: params.username });
  grant.addOIDCScope(params.scope);
  const token = new provider.AccessToken({
    accountId: params.username,
    client,
    expiresWithSession: false,
    grantId: await grant.save(),
    gty: grants.password,
    scope: params.scope,
  });
  ctx.body = {
    access_token: await token.save(),
    expires_in: token.expiration,
    scope: token.scope,
    token_type: token.tokenType,
  };
  await next();
}, ['username', 'password', 'scope', 'totp']);

function signsIn(name, password) {
  return Boolean(password) && Object.hasOwn(people, name) && people[name].password === password;
}

// RFC 6238, with Keystone's and everybody's parameters.
function passcode(secret) {
  const bits = [...secret].map((letter) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0')).join('');
  const bytes = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30000)));
  const hash = crypto.createHmac('sha1', bytes).update(counter).digest();
  const number = hash.readUInt32BE(hash[19] & 15) & 0x7fffffff;
  return String(number % 1000000).padStart(6, '0');
}

async function fields(request) {
  let body = '';
  for await (const part of request) body += part;
  return new URLSearchParams(body);
}

function page(response, status, form) {
  response.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  response.end(`<!DOCTYPE html><title>Testbed</title><form method="post">${form}</form>`);
}

const LOGIN = '<input name="login"><input name="password" type="password"><button>Sign in</button>';
const CONSENT = '<input type="hidden" name="agree" value="yes"><button>Allow</button>';

// What a person sees: who are you, and may this client act for you?
async function interaction(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  const finish = (result) => provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
  if (request.method !== 'POST') {
    page(response, 200, prompt.name === 'login' ? LOGIN : CONSENT);
    return;
  }
  const form = await fields(request);
  if (form.has('cancel')) {
    await finish({ error: 'access_denied', error_description: 'the person said no' });
  } else if (prompt.name === 'login') {
    if (!signsIn(form.get('login'), form.get('password'))) {
      page(response, 401, LOGIN);
      return;
    }
    await finish({ login: { accountId: form.get('login') } });
  } else {
    const { accountId } = session;
    const grant = await provider.Grant.find(grantId) ?? new provider.Grant({ accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    await finish({ consent: { grantId: await grant.save() } });
  }
}

const answer = provider.callback();
http.createServer((request, response) => {
  if (!request.url.startsWith('/interaction/')) {
    answer(request, response);
    return;
  }
  interaction(request, response).catch((error) => {
    response.writeHead(400, { 'content-type': 'text/plain' });
    response.end(`${error.message}\n`);
  });
}).listen(port, hostname);

provider.on('server_error', (ctx, error) => console.error(error));
