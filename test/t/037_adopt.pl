# What people do with our campaigns at Mailchimp itself is seen by the next poll and adopted (R112, D1, N2): scheduled, taken
# back, edited, sent, canceled, deleted, aimed at others; also one that has failed, and one that is just being prepared.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 12, worker => 1, plan => 'premium');
my ($sim, $node) = @$crm{qw(sim node)};

sub iso { return $crm->iso(@_) }
sub act { return $crm->act(@_) }

# A poll that set out after this is over.
sub poll_now
{
	my ($campaign) = @_;
	$crm->later(2);
	my $at = $crm->super('SELECT mailchimp_sync.clock()');
	$crm->mia("SELECT mc_poll_campaign($campaign)");
	McTest::poll('the poll', sub { $crm->column($campaign, "last_polled_at > '$at' AND next_poll_at > last_polled_at") eq 't'
			|| $crm->column($campaign, 'status') =~ /^(sent|deleted)$/ });
}

sub prepared
{
	my ($name, $keys) = @_;
	my $campaign = $crm->campaign($name, $keys);
	$crm->mia("SELECT mc_prepare_campaign($campaign)");
	$crm->wait_status($campaign, 'prepared');
	return $campaign;
}

# ---- scheduled there: ours from then on, with all that we know of opt-outs

my $campaign = prepared('App', '{1,2,3}');
my $quarter = $crm->quarter(7200);
act($campaign, 'schedule', at => iso($quarter));
poll_now($campaign);
is($crm->column($campaign, "concat_ws(' ', status, extract(epoch FROM scheduled_for)::bigint, mailchimp_status)"), "scheduled $quarter schedule",
	'scheduled at Mailchimp: adopted');
my ($since) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
$crm->mia("SELECT mc_opt_out('candidate', 3)");
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
is($crm->column($campaign, 'extract(epoch FROM scheduled_for)::bigint'), $quarter, 'corrected for the one who opted out, same hour (D12)');
act($campaign, 'unschedule');
poll_now($campaign);
is($crm->column($campaign, "concat_ws(' ', status, scheduled_for)"), 'prepared', 'taken back at Mailchimp: adopted');
act($campaign, 'schedule', at => iso($quarter));
poll_now($campaign);
act($campaign, 'unschedule');
act($campaign, 'schedule', at => iso($quarter + 900));
poll_now($campaign);
is($crm->column($campaign, 'extract(epoch FROM scheduled_for)::bigint'), $quarter + 900, 'another time: adopted');
$crm->both_at($quarter + 901);
$crm->wait_status($campaign, 'sent');
is($crm->remains('App'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'N2: sent at that hour, to the others');
is($crm->recipients($campaign), '1 sent, 2 sent, 3 skipped opted_out', 'and we know to whom');

# what is done there and not seen yet counts when it has to be corrected for somebody who opts out: another time, or none
$campaign = prepared('Unseen', '{1,2,6,7}');
$crm->schedule($campaign, $quarter = $crm->quarter(7200));
$crm->wait_status($campaign, 'scheduled');
act($campaign, 'unschedule');
act($campaign, 'schedule', at => iso($quarter + 900));
($since) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
$crm->mia("SELECT mc_opt_out('candidate', 6)");
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
is($crm->there($campaign), 'schedule ' . iso($quarter + 900) . ' 0', 'another time that nobody here has seen yet: corrected for that one');
act($campaign, 'unschedule');
$crm->mia("SELECT mc_opt_out('candidate', 7)");
$crm->wait_status($campaign, 'prepared');
McTest::poll('who opted out to leave the segment', sub { $crm->super("SELECT count(*) FROM mailchimp_sync.recipient WHERE campaign_id = $campaign AND segment_email IS NOT NULL") == 2 });
is($crm->there($campaign), 'paused never 0', 'taken back there, and not scheduled again');

# aimed at others, or at those who were there before somebody left: seen, and put right before its hour (N2)
my $api = HTTP::Tiny->new(default_headers => { Authorization => 'Bearer demo-us1', 'Content-Type' => 'application/json' });
my $id = $crm->column($campaign, 'mailchimp_id');
is($api->request('PATCH', $sim->url . "/3.0/campaigns/$id", { content => qq({"recipients": {"list_id": "$crm->{list}"}}) })->{status}, 200,
	'somebody aims it at the whole list');
($since) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
act($campaign, 'schedule', at => iso($quarter + 900));
$crm->mia("SELECT mc_poll_campaign($campaign)");
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($quarter + 901);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Unseen'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'and schedules it: sent to its own recipients alone');

$campaign = prepared('Frozen', '{1,2,8}');
$sim->hold(method => 'PATCH', path => '/members/', when => 'before');	# Mailchimp does not know that they opted out
act($campaign, 'schedule', at => iso($quarter = $crm->quarter(7200)));
($since) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
$crm->mia("SELECT mc_opt_out('candidate', 8)");
$sim->wait_requests(1, since => $since, method => 'POST', path => '/segments/\d+$');
$crm->mia("SELECT mc_poll_campaign($campaign)");
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Frozen'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'N2: scheduled there before somebody left its segment');
$sim->release;

# changed here when it is scheduled there: with the words of here
$campaign = prepared('Words', '{1,2}');
act($campaign, 'schedule', at => iso($quarter = $crm->quarter(7200)));
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"subject\": \"Newest words\"}')");
$crm->wait_status($campaign, 'failed');
$crm->mia("SELECT mc_poll_campaign($campaign)");
($since) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
is(join(' ', map { $_->{settings}{subject_line} } grep { $_->{title} =~ /^Words \[/ } @{ $sim->get('/_sim/campaigns')->{campaigns} }), 'Newest words',
	'altered here meanwhile: what was altered is not lost');
is($crm->there($campaign), 'schedule ' . iso($quarter) . ' 0', 'and its hour stays');
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');

# ---- edited there

$campaign = prepared('Draft title', '{1,2}');
my ($title) = map { $_->{title} } grep { $_->{title} =~ /^Draft title/ } @{ $sim->get('/_sim/campaigns')->{campaigns} };
act($campaign, 'edit', settings => { subject_line => 'Better words', from_name => 'Ann', reply_to => 'ann@example.org' });
poll_now($campaign);
is($crm->column($campaign, "concat_ws('/', name, subject, from_name, from_email)"), 'Draft title/Better words/Ann/ann@example.org',
	'subject and sender: adopted');
act($campaign, 'edit', settings => { title => $title =~ s/Draft/Final/r });
poll_now($campaign);
is($crm->column($campaign, "concat_ws('/', name, subject)"), 'Final title/Better words', 'and the title, without our mark');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"subject\": \"Our words\"}')");
$crm->wait_status($campaign, 'prepared');
poll_now($campaign);
is($crm->column($campaign, "concat_ws('/', subject, from_name)"), 'Our words/Ann', 'what is changed here afterwards counts, the rest stays');
act($campaign, 'send');
poll_now($campaign);
$crm->wait_status($campaign, 'sent');
is($crm->recipients($campaign), '1 sent, 2 sent', 'sent at Mailchimp: adopted');
is($crm->remains('Final title'), 'campaigns 1 sends 1 segments 0 p1@example.org=1 p2@example.org=1', 'once');

# ---- deleted there

$campaign = prepared('Thrown away', '{1,2}');
act($campaign, 'delete');
poll_now($campaign);
is($crm->column($campaign, "concat_ws(' ', status, last_error)"), 'deleted it was deleted at Mailchimp', 'deleted at Mailchimp: adopted');

# a poll is answered when it is gone by our own doing
$campaign = prepared('Looked at', '{1,2}');
$sim->hold(method => 'GET', path => '^/campaigns/' . $crm->column($campaign, 'mailchimp_id') . '$', when => 'before');
$crm->mia("SELECT mc_poll_campaign($campaign)");
$sim->wait_held;
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');
$sim->release;
$node->wait_until("SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.campaign_id = $campaign)");

# ---- the order to send was taken, and it shows as scheduled for a while (API 5.8)

$campaign = prepared('Queued', '{1,2}');
$sim->fault(method => 'POST', path => '/actions/send$', fault => { type => 'status', status => 204 });
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_requests(1, path => "/campaigns/@{[$crm->column($campaign, 'mailchimp_id')]}/actions/send\$");
act($campaign, 'schedule', at => iso($quarter = $crm->quarter(900)));
McTest::poll('it to be seen', sub { $crm->column($campaign, 'mailchimp_status') eq 'schedule' });
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Queued'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'it is waited for');

# ---- one that has failed is mended and sent there

$campaign = $crm->mia("SELECT mc_create_campaign('Mended', 'customers', 'Unfinished', 'Mia', 'mia\@example.org')");
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{1,2}')");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'failed');
act($campaign, 'send');
poll_now($campaign);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Mended'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'a failed one that was sent there is sent');

# ---- scheduled there while it is being prepared: that is what is wanted then, once it is complete

$campaign = $crm->campaign('Meanwhile', '{1,2}');
$quarter = $crm->quarter(7200);
$sim->hold(method => 'GET', path => '/send-checklist$', when => 'before');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$sim->wait_held;
$crm->mia("SELECT mc_send_campaign($campaign)");
act($campaign, 'schedule', at => iso($quarter));
$sim->release;
$crm->wait_status($campaign, 'sent');
is($crm->remains('Meanwhile'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'to be sent now: taken back there, and sent once');

$campaign = $crm->campaign('Meanwhile 2', '{1,2}');
$quarter = $crm->quarter(7200);
$sim->hold(method => 'PUT', path => '/content$', when => 'after');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$sim->wait_held;
$sim->post('/_sim/config', { count_looks => 0, count_seconds => 0 });
act($campaign, 'schedule', at => iso($quarter));
$sim->release;
$crm->wait_status($campaign, 'scheduled');
is($crm->column($campaign, 'extract(epoch FROM scheduled_for)::bigint'), $quarter, 'only to be prepared: scheduled as somebody wanted');
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');

# ---- aimed at others: put right before anything is sent (N2)

$campaign = prepared('Aim', '{1,2}');
$id = $crm->column($campaign, 'mailchimp_id');
my $answer = $api->request('PATCH', $sim->url . "/3.0/campaigns/$id", { content => qq({"recipients": {"list_id": "$crm->{list}"}}) });
is($answer->{status}, 200, 'somebody aims it at the whole list');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Aim'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1', 'N2: sent to its own recipients alone');

# sent there to others: Mailchimp says to whom
$campaign = prepared('Astray', '{1,2}');
$id = $crm->column($campaign, 'mailchimp_id');
$api->request('PATCH', $sim->url . "/3.0/campaigns/$id", { content => qq({"recipients": {"list_id": "$crm->{list}"}}) });
act($campaign, 'send');
poll_now($campaign);
$crm->wait_status($campaign, 'sent');
McTest::poll('all who got it', sub { $crm->mia("SELECT count(*) FILTER (WHERE r.status = 'sent') = max(c.emails_sent) FROM mc_campaign_recipient r "
		. "JOIN mc_campaign c USING (campaign_id) WHERE campaign_id = $campaign") eq 't' });
is($crm->mia("SELECT emails_sent FROM mc_campaign WHERE campaign_id = $campaign"), 8, 'sent there to the whole list: all of them are recipients');

# ---- canceled while it is being sent: who has got it has got it

$sim->post('/_sim/config', { send_seconds => 100 });
$campaign = prepared('Half', '{1,2,4,5}');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sending');
$sim->post('/_sim/clock', { advance => 60 });
$answer = $api->request('POST', $sim->url . '/3.0/campaigns/' . $crm->column($campaign, 'mailchimp_id') . '/actions/cancel-send');
is($answer->{status}, 204, 'somebody cancels it when half of it has left');
$crm->wait_status($campaign, 'sent');
McTest::poll('who got it to be read', sub { $crm->super("SELECT goal IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $campaign") eq 't' });
my ($mails) = $crm->remains('Half') =~ /segments 1 (.*)/;
is($crm->mia("SELECT string_agg(email || '=1', ' ' ORDER BY email) FROM mc_campaign_recipient WHERE campaign_id = $campaign AND status = 'sent'"), $mails,
	'canceled at Mailchimp: sent to those whom it had left for');
is($crm->mia("SELECT count(*) FILTER (WHERE status = 'sent') IN (2, 3), count(*) FILTER (WHERE status = 'pending') FROM mc_campaign_recipient WHERE campaign_id = $campaign"), 't|0',
	'and nobody is pending');

is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
