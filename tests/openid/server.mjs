// A real OpenID provider for the tests (npm oidc-provider), with a door beside it for what happens at an issuer: accounts are
// made, changed and closed, keys are rotated. Speaks on 127.0.0.1 only; prints one JSON line once it listens.
import http from "node:http";
import { createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { Provider } from "oidc-provider";
import { SignJWT, UnsecuredJWT, decodeJwt, importJWK } from "jose";

const options = JSON.parse(process.argv[2]);
const accounts = new Map(Object.entries(options.accounts));
const jwk = (kid) => ({ ...generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" });
let keys = [jwk(randomBytes(4).toString("hex"))];
const adapters = new Map(); // survives a rotation of keys, as an issuer's database would

class Memory {
  constructor(name) { this.name = name; }
  key(id) { return `${this.name}:${id}`; }
  async upsert(id, payload, expiresIn) { adapters.set(this.key(id), { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity }); }
  async find(id) { const found = adapters.get(this.key(id)); return found && found.until > Date.now() ? found.payload : undefined; }
  async findByUid(uid) { for (const [key, { payload }] of adapters) if (key.startsWith(`${this.name}:`) && payload.uid === uid) return payload; }
  async findByUserCode() {}
  async consume(id) { adapters.get(this.key(id)).payload.consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { adapters.delete(this.key(id)); }
  async revokeByGrantId(grantId) { for (const [key, { payload }] of adapters) if (payload.grantId === grantId) adapters.delete(key); }
}

// A dishonest or broken issuer: what it says in an ID token instead of the truth, signed with its own good key unless that is the lie.
let forgery = "";
let clients = options.clients;
const signed = async (claims) => new SignJWT(claims).setProtectedHeader({ alg: "RS256", kid: keys[0].kid }).sign(await importJWK(keys[0], "RS256"));
const forgeries = {
  audience: (claims) => signed({ ...claims, aud: "another-portal" }),
  "authorised party": (claims) => signed({ ...claims, aud: [claims.aud, "another"], azp: "another" }),
  issuer: (claims) => signed({ ...claims, iss: "https://evil.example" }),
  expired: (claims) => signed({ ...claims, iat: claims.iat - 7200, exp: claims.iat - 3600 }),
  "not yet": (claims) => signed({ ...claims, nbf: claims.iat + 3600 }),
  nonce: (claims) => signed({ ...claims, nonce: "0".repeat(64) }),
  "no nonce": ({ nonce, ...claims }) => signed(claims),
  "another person": (claims) => signed({ ...claims, sub: "chief" }),
  "no algorithm": (claims) => new UnsecuredJWT(claims).encode(),
  "the public key as a secret": (claims) => {
    const pem = createPublicKey({ key: keys[0], format: "jwk" }).export({ type: "spki", format: "pem" });
    return new SignJWT(claims).setProtectedHeader({ alg: "HS256", kid: keys[0].kid }).sign(Buffer.from(pem));
  },
  "a key that is not published": async (claims) => {
    const other = jwk(keys[0].kid);
    return new SignJWT(claims).setProtectedHeader({ alg: "RS256", kid: other.kid }).sign(await importJWK(other, "RS256"));
  },
  "no ID token": () => undefined,
};

const server = http.createServer();
let callback;
function serve() {
  const provider = new Provider(options.issuer, {
    adapter: Memory,
    clients,
    jwks: { keys },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    claims: { openid: ["sub", "idp", "groups", "eppn", "given_name", "family_name", "eduperson_entitlement", "hd"], profile: ["name", "preferred_username"], email: ["email", "email_verified"] },
    conformIdTokenClaims: true,
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: async () => true,
    ttl: { AccessToken: options.access_token_s, IdToken: 60, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600, AuthorizationCode: 60 },
    features: { devInteractions: { enabled: false }, rpInitiatedLogout: { enabled: false } },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    async findAccount(_, sub) {
      const claims = accounts.get(sub);
      return claims && !claims.closed ? { accountId: sub, claims: async () => ({ ...claims, sub }) } : undefined;
    },
  });
  provider.use(async (context, next) => {
    await next();
    if (forgery && context.body?.id_token) context.body = { ...context.body, id_token: await forgeries[forgery](decodeJwt(context.body.id_token)) };
  });
  callback = provider.callback();
  return provider;
}
let provider = serve();

const page = (body) => `<!doctype html><html lang="en"><title>Test issuer</title><main>${body}</main></html>`;
async function text(request) { let all = ""; for await (const part of request) all += part; return all; }

async function interaction(request, response) {
  if (request.method === "GET") {
    response.setHeader("content-type", "text/html");
    response.end(page(`<h1>Test issuer</h1><form method="post"><label>Account <input name="login" required></label><button>Continue</button></form>`));
    return;
  }
  const form = new URLSearchParams(await text(request));
  const sub = form.get("login");
  const { params, grantId } = await provider.interactionDetails(request, response);
  if (!accounts.has(sub) || accounts.get(sub).closed) {
    await provider.interactionFinished(request, response, { error: "access_denied", error_description: "<b>no such account</b>" });
    return;
  }
  const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId: sub, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const granted = await grant.save();
  await provider.interactionFinished(request, response, { login: { accountId: sub }, consent: { grantId: granted } });
}

async function control(request, response) {
  const order = JSON.parse(await text(request));
  if (order.account) accounts.set(order.account, { ...accounts.get(order.account), ...order.claims });
  if (order.rotate) { keys = [jwk(randomBytes(4).toString("hex"))]; provider = serve(); }
  if ("forge" in order) forgery = order.forge;
  if (order.secret) { clients = clients.map((one) => ({ ...one, client_secret: order.secret })); provider = serve(); }
  response.end("{}");
}

server.on("request", (request, response) => {
  const path = new URL(request.url, options.issuer).pathname;
  const answer = path === `/control/${options.control}` ? control(request, response)
    : path.startsWith("/interaction/") ? interaction(request, response) : callback(request, response);
  Promise.resolve(answer).catch((error) => { response.statusCode = 500; response.end(String(error)); });
});
server.listen(options.port, "127.0.0.1", () => console.log(JSON.stringify({ listening: options.port })));
