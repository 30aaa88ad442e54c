// Node's HTTP server with its lenient parser, which some old applications enable. Arguments: address and port.
const http = require('http');

// As an application finds it: parsed as a URL, then decoded.
function path(target) {
  try {
    return decodeURIComponent(new URL(target, 'http://a').pathname);
  } catch {
    return target;
  }
}

const server = http.createServer({ insecureHTTPParser: true }, (request, response) => {
  let length = 0;
  request.on('data', (piece) => { length += piece.length; });
  request.on('end', () => {
    const claimed = request.headers['x-forwarded-client-cert'] || '';
    response.end(`served ${request.method} ${request.url} xfcc=[${claimed}] body=${length} path=[${path(request.url)}]\n`);
  });
});
server.on('clientError', (error, socket) => socket.destroy());
server.listen(Number(process.argv[3]), process.argv[2]);
