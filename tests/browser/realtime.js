// From "Session 6: WebSocket Server Implementation Complete" (November 2024), "Test Connection".
const ws = new WebSocket('ws://localhost:3000/api/realtime?userId=test');
ws.onopen = () => console.log('Connected!');
ws.onmessage = (e) => console.log('Message:', JSON.parse(e.data));
