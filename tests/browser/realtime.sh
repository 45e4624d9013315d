# From "Session 6: WebSocket Server Implementation Complete" (November 2024), "Testing Examples".
curl http://localhost:3000/api/realtime
curl -X POST http://localhost:3000/api/realtime \
  -H "Content-Type: application/json" \
  -d '{"type":"SYNC","operations":[]}'
