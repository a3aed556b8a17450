/*-------------------------------------------------------------------------
 *
 * adopt.h
 *	  A campaign as Mailchimp shows it, for those who look at one (adopt.sql).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_ADOPT_H
#define MC_ADOPT_H

#include "ask.h"

/* the arguments of mailchimp_sync.as_shown(), in the order of shown_fields() */
#define MC_SHOWN(json)                                                                            \
	mc_json_needed(mc_json_text_arg(json, "status"), "status"),                                   \
		mc_json_text_arg(json, "send_time"), mc_json_text_arg(json, "archive_url"),               \
		mc_json_int8_arg(json, "emails_sent"),                                                    \
		mc_json_int8_arg(json, "recipients.recipient_count"),                                     \
		mc_json_int8_arg(json, "recipients.segment_opts.saved_segment_id"),                       \
		mc_json_int8_arg(json, "settings.template_id"), mc_json_text_arg(json, "settings.title"), \
		mc_json_text_arg(json, "settings.subject_line"),                                          \
		mc_json_text_arg(json, "settings.from_name"), mc_json_text_arg(json, "settings.reply_to")

#endif
