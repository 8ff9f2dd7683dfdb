/**
 * Bugs that the laboratory can switch on, one at a time, to prove that it would find them. Each is
 * a line of production code that asks `environment.bugs.has(…)`; production passes the empty set. A
 * bug the simulation or the crash suite does not find within a minute means the laboratory is a
 * toy.
 */
export const SEEDED_BUGS = {
  'no-barrier-before-map': 'The map is written without syncing the store first (breaks I2).',
  'dirty-set-after-sync':
    'A commit takes its dirty set after the store sync instead of before (breaks I2).',
  'late-install':
    'Fetched bytes are installed without looking again whether the block is still absent (breaks I4).',
  'no-intent-mark':
    'A copied block is overwritten without a durable mark for its region (breaks I11).',
  'mask-not-committed': 'A commit leaves out the sector masks of partial blocks (breaks I3).',
  'ack-before-map-sync':
    'A flush is answered when the map is written, before it is synced (breaks I3).',
  'zero-settled-early':
    'A zeroed block counts as overwritten before its zeroes are in the store (breaks I2).',
  'backlog-after-data':
    'A write goes to store and backup before its intent mark is durable (breaks I8).',
  'reconnect-set-lost':
    'What was answered and not flushed before a connection was lost is not sent again (breaks I8).',
  'trim-for-zeroes':
    'Zeroes go to the backup as a TRIM that leaves the bytes as they were (breaks I8).',
  'strict-parallel-legs': 'A strict write does not wait for the backup (breaks I3, I8).',
  'zombie-write':
    'A write under way when a connection died is sent again at once and not read back (breaks I6).',
  'memory-not-adopted':
    'A daemon that takes over reads the map file and leaves the memory of the one before alone (breaks I3).',
  'taken-changes-forgotten':
    'What a commit took and had not made durable when its daemon died is not committed again (breaks I3).',
  'refetch-from-source-after-overwrite':
    'An unreadable overwritten block is taken from the source, which never had it (breaks I1).',
  'put-back-though-behind':
    'An unreadable block is put back from a backup that does not have its last write (breaks I8).',
  'replace-forgets-backlog':
    'A replaced store gets none of the blocks that the backup lacks (breaks I3).',
} as const;

export type SeededBug = keyof typeof SEEDED_BUGS;
