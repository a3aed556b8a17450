# mc_check_campaign in every state, with what to do about each finding, and mc_preview_campaign with the list's own
# fields. What needs no request is in test/sql/campaign_check.sql.

use strict;
use warnings;
use JSON::PP ();
use McCampaign;
use McTest;
use MIME::Base64 qw(encode_base64);
use Test::More;

my $crm = McCampaign->start(people => 8);
my ($sim, $node) = @$crm{qw(sim node)};

# The findings whose heading fits: "t heading" for each, and what is said about the only one.
sub check { my ($campaign, $heading) = @_; return $crm->mia("SELECT ok || ' ' || heading FROM mc_check_campaign($campaign) WHERE heading ~ '$heading'") =~ s/^t(rue)? /t /mgr =~ s/^f(alse)? /f /mgr }
sub detail { my ($campaign, $heading) = @_; return $crm->mia("SELECT detail FROM mc_check_campaign($campaign) WHERE heading ~ '$heading'") }
sub not_ok { my ($campaign) = @_; return $crm->mia("SELECT heading FROM mc_check_campaign($campaign) WHERE NOT ok") }

sub prepared
{
	my ($name) = @_;
	my $campaign = $crm->campaign($name, '{1,2,3}');
	$crm->mia("SELECT mc_prepare_campaign($campaign)");
	$crm->wait_status($campaign, 'prepared');
	return $campaign;
}

# A request of somebody else's program.
sub mailchimp
{
	my ($method, $path, $body) = @_;
	my $answer = $sim->{http}->request($method, $sim->url . "/3.0$path", { content => JSON::PP::encode_json($body),
		headers => { authorization => 'Basic ' . encode_base64('x:demo-us1', ''), 'content-type' => 'application/json' } });
	die "$method $path: $answer->{content}" unless $answer->{success};
}

# ---- the list's own fields, with their defaults (R24, R33, R109)

mailchimp('PATCH', "/lists/$crm->{list}/merge-fields/1", { default_value => 'friend' });
$crm->mia("SELECT mc_refresh('demo')");
$crm->ada("UPDATE candidate SET first_name = '' WHERE id = 3");
my $campaign = $crm->campaign('Dear *|FNAME|*, *|LNAME|* *|NAME|*', '{1,2,3}');
is($crm->mia("SELECT subject, unknown_tags FROM mc_preview_campaign($campaign, 'candidate', 1)"), 'Dear P1,  *|NAME|*|{NAME}', 'what the mapping gives; an unknown tag is named');
is($crm->mia("SELECT subject FROM mc_preview_campaign($campaign, 'candidate', '3')"), 'Dear friend,  *|NAME|*', "the field's default");
is(detail($campaign, 'merge tag'), 'Perhaps you meant "FNAME" or "LNAME". mc_merge_field shows those that there are.', 'R109: the check names those that there are');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"name\": \"Dear *|FNAME|*\"}')");
is(check($campaign, 'merge tag'), '', 'R24: those are no finding');
$crm->mia("SELECT mc_cancel_campaign($campaign)");

# ---- on its way, prepared: our checks and Mailchimp's (R34)

$campaign = $crm->campaign('Spring', '{1,2,3,99}');
$sim->hold(method => 'PUT', path => '/content$', when => 'before');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$sim->wait_held;
is(check($campaign, '^it is'), 't it is preparing', 'on its way');
like(check($campaign, '^Content$'), qr/^f Content$/, "Mailchimp's own checklist");
$sim->release;
$crm->wait_status($campaign, 'prepared');
is(not_ok($campaign), '', 'ready');
is($crm->mia("SELECT count(*) FROM mc_check_campaign($campaign) WHERE heading = ANY ('{List,Recipients,Subject Line,From Name,Reply-To Address,Content,Unsubscribe Link}')"), 7, 'with the whole checklist');
is(check($campaign, 'recipients') . ': ' . detail($campaign, 'recipients'), 't 3 recipients will get it: 1 skipped: 1 no_email; mc_campaign_recipient shows each.', 'who gets it, and why others do not');
like(detail($campaign, '^it is prepared'), qr/mc_copy_campaign\($campaign\), mc_delete_campaign\($campaign\)/, 'R36: another template is another campaign');

# what changed since
$crm->mia("SELECT mc_opt_out('candidate', 2)");
$crm->ada("UPDATE candidate SET first_name = 'Newest' WHERE id = 1");
$node->wait_until("SELECT EXISTS (SELECT FROM mc_member WHERE email = 'p1\@example.org' AND merge_fields ->> 'FNAME' = 'Newest')");
is(check($campaign, '^recipients who '), 't recipients who opted out after it was prepared: 1', 'opted out meanwhile (R29)');
is(check($campaign, '^recipients whose'), 't recipients whose data changed after it was prepared: 1', 'data that are newer (R32)');
$sim->fault(method => 'POST', path => '/actions/test$', fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->mia("SELECT mc_test_campaign($campaign, '{p1\@example.org}')");
McTest::poll('the test mail to fail', sub { check($campaign, 'test mail') eq 'f the last test mail failed' });
is(detail($campaign, 'test mail'), $crm->mia("SELECT detail FROM mc_failure WHERE campaign_id = $campaign"), 'with its reason');

# scheduled, sending, sent; who opts out then is told
$crm->mia("SELECT mc_schedule_campaign($campaign, date_trunc('hour', now()) + interval '3 days')");
$crm->wait_status($campaign, 'scheduled');
is(not_ok($campaign) . check($campaign, '^it is'), 't it is scheduled', 'scheduled');
like(detail($campaign, '^it is'), qr/^It is sent at .*; mc_unschedule_campaign\($campaign\) takes that back\.$/, 'when, and the way back');
$sim->hold(method => 'POST', path => '/actions/send$', when => 'before');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
is(check($campaign, '^it is|asked|recipients (will|are)'), "t it is sending\nt 2 recipients are getting it\nt Mailchimp was not asked", 'being sent');
$sim->release;
$crm->wait_status($campaign, 'sent');
$crm->mia("SELECT mc_opt_out('candidate', 3)");
is(check($campaign, ''), "t it is sent\nt 2 recipients got it\nt recipients who opted out after it was sent: 1\nt Mailchimp was not asked", 'sent; who opted out later is told');
my $copy = $crm->mia("SELECT mc_copy_campaign($campaign)");
is($crm->recipients($copy), '1 pending, 2 skipped opted_out, 3 skipped opted_out, 99 skipped no_email', 'the copy of one that was sent has the selection, not what became of it');
is($crm->mia("SELECT status, mailchimp_id, sent_at, scheduled_for FROM mc_campaign WHERE campaign_id = $copy"), 'draft|||', 'and is a draft');
$crm->mia("SELECT mc_send_campaign($copy)");
$crm->wait_status($copy, 'sent');
is($crm->remains('Spring'), 'campaigns 2 sends 1+1 segments 2 p1@example.org=2 p3@example.org=1', 'sent as a campaign of its own');
$crm->mia("SELECT mc_delete_campaign($copy)");
$crm->wait_status($copy, 'deleted');
is(check($copy, ''), "t it is deleted\nt 1 recipients got it\nt Mailchimp was not asked", 'deleted');

# ---- not ready: every reason with what to do; the way out is another one (R34, R35)

$campaign = $crm->campaign('Unfinished', '{4}');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"template\": \"Unfinished\"}')");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'failed');
is(not_ok($campaign), "it is failed\nContent", 'R34: what is not ready');
like(detail($campaign, '^Content'), qr/^The template Unfinished is incomplete.* Complete it on Mailchimp's page.*mc_copy_campaign\($campaign\), mc_delete_campaign\($campaign\)\.$/, "R34: Mailchimp's words, and what to do");
like(detail($campaign, '^it is failed'), qr/^not ready: Content: .*mc_copy_campaign\($campaign\), mc_delete_campaign\($campaign\)\.$/, 'R35: the way out');
$copy = $crm->mia("SELECT mc_copy_campaign($campaign)");
$crm->mia("SELECT mc_delete_campaign($campaign); SELECT mc_alter_campaign($copy, '{\"template\": \"Newsletter\"}'); SELECT mc_send_campaign($copy)");
$crm->wait_status($copy, 'sent');
$crm->wait_status($campaign, 'deleted');
is($crm->remains('Unfinished'), 'campaigns 1 sends 1 segments 1 p4@example.org=1', 'R35: it leads there');

# ---- done at Mailchimp itself, and not seen here yet

my %done = (
	edit => [ sub { $sim->post('/_sim/act', { campaign => $_[0], action => 'edit', settings => { subject_line => 'Theirs', from_name => 'They' } }) },
		"t its sender was changed at Mailchimp\nt its subject was changed at Mailchimp", qr/^They <mia\@example\.org> is taken over .*\n"Theirs" is taken over/ ],
	recipients => [ sub { mailchimp('PATCH', "/campaigns/$_[0]", { recipients => { list_id => $crm->{list} } }) },
		'f its recipients were changed at Mailchimp', qr/^Sent from here it goes to those that were selected here/ ],
	send => [ sub { $sim->post('/_sim/act', { campaign => $_[0], action => 'send' }) }, 'f it is "sen(t|ding)" at Mailchimp', qr/mc_poll_campaign\(\d+\) takes it over now/ ],
	delete => [ sub { $sim->post('/_sim/act', { campaign => $_[0], action => 'delete' }) }, 'f it is gone at Mailchimp', qr/^Somebody deleted it there\. mc_copy_campaign/ ]);
my %campaigns = map { ($_ => prepared($_)) } sort keys %done;
$crm->break_off;
for my $what (sort keys %done)
{
	my ($do, $headings, $words) = @{ $done{$what} };
	$do->($crm->column($campaigns{$what}, 'mailchimp_id'));
	like(join("\n", sort split /\n/, check($campaigns{$what}, 'at Mailchimp')), qr/^$headings$/, "$what at Mailchimp is seen");
	like(join("\n", sort { lc $a cmp lc $b } reverse split /\n/, detail($campaigns{$what}, 'at Mailchimp')), $words, 'and what it means') if $what ne 'edit';
	like(detail($campaigns{$what}, 'its sender') . "\n" . detail($campaigns{$what}, 'its subject'), $words, 'and what it means') if $what eq 'edit';
}

# ---- Mailchimp cannot be asked: our part, and why

$campaign = $campaigns{edit};
my %silent = (
	'connection "demo" is paused' => [ sub { $node->query("SELECT mc_pause('demo')") }, sub { $node->query("SELECT mc_resume('demo')") } ],
	'no usable answer from Mailchimp' => [ sub { $sim->fault(method => 'GET', path => '^/campaigns/', times => 2, fault => 'html_502') }, sub { } ],
	'Mailchimp: API Key Invalid' => [ sub { $sim->delete('/_sim/keys/demo-us1') }, sub { } ]);
for my $why (sort { $b cmp $a } keys %silent)
{
	my ($before, $after) = @{ $silent{$why} };
	$before->();
	like(detail($campaign, 'was not asked'), qr/^\Q$why\E/, "$why: said so");
	is(check($campaign, 'was not asked|^it is'), "t it is prepared\nf Mailchimp was not asked", 'and the rest is there');
	$after->();
}

# ---- a source that cannot be read

$crm->ada('ALTER TABLE candidate RENAME COLUMN first_name TO given_name; UPDATE candidate SET email = email');
$crm->run_engine;
McTest::poll('the source to stop', sub { check($campaign, '^source') eq 'f source candidate cannot be read' });
like(detail($campaign, '^source'), qr/first_name/, 'a source that stopped is told');

$node->stop;
done_testing();
