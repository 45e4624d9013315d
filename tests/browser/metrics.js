// From AI cost optimizer, "Task 5: WebSocket Real-Time Metrics Streaming" (November 2025), "JavaScript/TypeScript Client".
const ws = new WebSocket('ws://localhost:8000/ws/metrics');

ws.onopen = () => {
  console.log('Connected to metrics stream');
};

ws.onmessage = (event) => {
  const metrics = JSON.parse(event.data);
  console.log('Metrics update:', metrics);

  // Update dashboard UI
  updateDashboard(metrics);
};

ws.onerror = (error) => {
  console.error('WebSocket error:', error);
};

ws.onclose = () => {
  console.log('Disconnected from metrics stream');
  // Attempt reconnection after 5 seconds
  setTimeout(() => connectToMetrics(), 5000);
};
