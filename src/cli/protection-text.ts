/** How a volume's backup stands, in words. They never say more than is known (BX11). Pure. */
import {formatDuration, formatSize} from '../base/units.js';
import type {VolumeStatus} from '../control/status.js';
import type {ProtectionReport} from '../volume/protection.js';

/** One line. `now`: wall time in ms. */
export function protectionText(
  {protection}: Pick<VolumeStatus, 'protection'>,
  now: number,
): string {
  const {mode, link} = protection;
  if (mode === 'off') return 'write-through off: what is written stays in the store';
  const parts = [stateText(protection)];
  if (protection.unflushedBlocks > 0) {
    parts.push(`${protection.unflushedBlocks} blocks sent and not yet flushed`);
  }
  if (link.state !== 'connected') {
    const since = formatDuration(now - link.since);
    const why = link.lastError ? ` (${link.lastError})` : '';
    parts.push(`${link.state === 'refused' ? 'refused' : 'away'} since ${since}${why}`);
  } else if (protection.lastError) parts.push(`last error: ${protection.lastError}`);
  return `${mode}: ${parts.join(', ')}`;
}

function stateText(protection: ProtectionReport): string {
  const {state, consistentAsOf, inconsistentSince, behindBlocks, behindBytes, resync} = protection;
  const behind = `${behindBlocks} blocks, ${formatSize(behindBytes)} behind`;
  const consistent =
    typeof consistentAsOf === 'number'
      ? `backup consistent as of ${new Date(consistentAsOf).toISOString()}`
      : 'the backup is as it was at the first attach';
  switch (state) {
    case 'off':
      return 'off';
    case 'protected':
      return `protected, ${consistent}`;
    case 'behind':
      return `${consistent}, ${behind}`;
    case 'resync': {
      const since = new Date(inconsistentSince ?? 0).toISOString();
      const eta =
        typeof resync.etaMs === 'number' ? `, done in ${formatDuration(resync.etaMs)}` : '';
      return `resync: inconsistent since ${since}, ${behind}, ${formatSize(resync.rate)}/s${eta}`;
    }
  }
}
