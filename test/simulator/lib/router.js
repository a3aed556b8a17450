// Finds the route of a method and path. Templates are written as in Mailchimp's description (/lists/{list_id}/members).

export class Router {
  constructor(routes) {
    this.root = { static: new Map(), param: null, methods: null };
    for (const route of routes) this.add(route);
  }

  add(route) {
    let node = this.root;
    const names = [];
    for (const part of route.path.split('/').filter(Boolean)) {
      if (part.startsWith('{')) {
        names.push(part.slice(1, -1));
        node = node.param ||= { static: new Map(), param: null, methods: null };
      } else {
        if (!node.static.has(part)) node.static.set(part, { static: new Map(), param: null, methods: null });
        node = node.static.get(part);
      }
    }
    node.methods ||= new Map();
    node.methods.set(route.method, { ...route, names, title: `${route.method} ${route.path}` });
  }

  // {route, params}, {allow: [methods]} for a known path with another method, or null.
  find(method, path) {
    const values = [];
    let node = this.root;
    for (const part of path.split('/').filter(Boolean)) {
      const next = node.static.get(part);
      if (next) {
        node = next;
      } else if (node.param) {
        values.push(decode(part));
        node = node.param;
      } else {
        return null;
      }
    }
    if (!node.methods) return null;
    const route = node.methods.get(method);
    if (!route) return { allow: [...node.methods.keys()] };
    return { route, params: Object.fromEntries(route.names.map((name, i) => [name, values[i]])) };
  }
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
