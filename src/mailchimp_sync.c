/*-------------------------------------------------------------------------
 *
 * mailchimp_sync.c
 *	  What happens when the library is loaded.
 *
 * Preloaded, it reserves the shared memory of slot.c. Loaded later, by the first
 * call of one of its functions, it only defines its settings: that works at any
 * time, without a transaction, and never fails. pg_upgrade starts its servers
 * with the old configuration, where nothing of us may run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "mailchimp_sync.h"
#include "slot.h"
#include "worker.h"

PG_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	mc_define_settings();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
	{
		mc_shared_request();
		mc_launcher_start();
	}
}
