// Node's HTTP server with its lenient parser, which some old applications enable. Arguments: address and port.
const http = require('http');

const server = http.createServer({ insecureHTTPParser: true }, (request, response) => {
  let length = 0;
  request.on('data', (piece) => { length += piece.length; });
  request.on('end', () => {
    const claimed = request.headers['x-forwarded-client-cert'] || '';
    response.end(`served ${request.method} ${request.url} xfcc=[${claimed}] body=${length}\n`);
  });
});
server.on('clientError', (error, socket) => socket.destroy());
server.listen(Number(process.argv[3]), process.argv[2]);
