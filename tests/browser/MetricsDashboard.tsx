// From AI cost optimizer, "Task 5: WebSocket Real-Time Metrics Streaming" (November 2025), "React Dashboard Example".
import { useEffect, useState } from 'react';

function MetricsDashboard() {
  const [metrics, setMetrics] = useState(null);
  const [connected, setConnected] = useState(false);

  useEffect(() => {
    const ws = new WebSocket('ws://localhost:8000/ws/metrics');

    ws.onopen = () => setConnected(true);
    ws.onmessage = (event) => setMetrics(JSON.parse(event.data));
    ws.onclose = () => setConnected(false);

    return () => ws.close();
  }, []);

  return (
    <div>
      <div>Status: {connected ? '🟢 Connected' : '🔴 Disconnected'}</div>
      {metrics && (
        <div>
          <h2>Real-Time Metrics</h2>
          <p>Total Decisions: {metrics.total_decisions}</p>
          <p>Avg Confidence: {(metrics.avg_confidence * 100).toFixed(1)}%</p>
          <p>Last Update: {new Date(metrics.timestamp).toLocaleString()}</p>
        </div>
      )}
    </div>
  );
}
